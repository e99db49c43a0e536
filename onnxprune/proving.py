"""The second net: a plan carried out and proven; where the proof fails, the group at fault is found and frozen."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune import gates, rewrite
from onnxprune import model as files
from onnxprune.apart import Apart
from onnxprune.compare.recording import Feed, Recording, record
from onnxprune.cost import CostModel
from onnxprune.errors import LawError, ModelError
from onnxprune.groups import Groups, find
from onnxprune.plan import Plan
from onnxprune.verify import Verification, compare, verify

log = logging.getLogger(__name__)

ModelLike = str | Path | onnx.ModelProto


def differs(where: str, what: str, check: Verification) -> str:
    """The message of a LawError: which model, after what was done to it, is not the original any more."""
    return (
        f"{where}: {what} it differs from the original by {check.max_rel_error:.1e} of the largest output "
        f"(allowed: {check.tolerance:.0e}); nothing was written, please report the model"
    )


@dataclass(frozen=True)
class Decided:
    """What is to be carried out."""

    plan: Plan
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Initializers with other values than the model has, in their full shapes."""


@dataclass(frozen=True)
class Attempt:
    """A plan carried out: both sides of the law, and how far they are apart."""

    gated: Apart
    slim: Apart
    verified: Verification
    kept: Mapping[str, float]
    plan_json: dict[str, Any]
    pruned: tuple[str, ...]
    """Groups that lose channels, in graph order."""
    seconds: float
    changed: bool = False
    """Whether weights are others than the original's."""


OPEN, CLOSED = "open", "closed"
"""What the original is the same as: the gated model with all gates open, or with the plan's gates closed."""
FAILED = Verification(float("inf"), 1e-5, 0)
"""Of a slim model that does not even run."""


class Attempts:
    """Rewrites and checks; where the check fails, finds the group at fault, freezes it and goes on."""

    def __init__(
        self,
        original: ModelLike,
        source: files.Model,
        decide: Callable[[Groups, Apart], Decided],
        original_is: str | None,
        feeds: Callable[[onnx.ModelProto], Iterator[Feed]] | None,
        seed: int,
    ) -> None:
        self.original, self.decide, self.feeds, self.seed = original, decide, feeds, seed
        self.original_is = original_is
        self.where = source.where
        self.path, self.parts = source.path, files.export(source)
        """The model without gates, to be loaded anew for each attempt."""
        self.source: files.Model | None = source  # used up by the first attempt
        self.frozen: dict[str, str] = {}
        self.with_weights = True
        """Whether the weights that were decided on are taken over."""

    def exact(self) -> Attempt:
        """The first attempt that passes, after as many groups are frozen as it takes."""
        attempt = self._attempt(None, original_is=self.original_is)
        if not attempt.verified.equal and attempt.changed:
            attempt = self._without_weights(attempt)
        while not attempt.verified.equal:
            if not attempt.pruned:
                raise LawError(
                    f"{self.where}: two runs of it differ without any change; it is not deterministic"
                )
            culprit = self._culprit(attempt.pruned)
            reason = "the slim model differed from the gated one: its channels were not understood"
            log.warning("group '%s' is frozen: %s", culprit, reason)
            self.frozen[culprit] = reason
            attempt = self._attempt(None)
        return attempt

    def _without_weights(self, failed: Attempt) -> Attempt:
        """The same plan with the model's own weights, if it is them that round well enough to be proven."""
        self.with_weights = False
        attempt = self._attempt(None)
        self.with_weights = not attempt.verified.equal
        if self.with_weights:
            return failed
        log.warning(
            "with repaired weights rounding hides whether the models are equal: they stay as they were"
        )
        return attempt

    def _culprit(self, pruned: tuple[str, ...]) -> str:
        """The last group of the shortest prefix that fails; one wrong rule makes every longer one fail as well."""
        low, high = 0, len(pruned)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._attempt(pruned[:middle]).verified.equal else (low, middle)
        return pruned[high - 1]

    def _fresh(self) -> files.Model:
        """The model without gates, ready to be taken apart."""
        model, self.source = self.source, None
        if model is None:
            gc.collect()  # the graph of the last attempt is one large cycle
            model = files.load(self.parts)
            model.path = self.path
        return model

    def _attempt(self, only: tuple[str, ...] | None, *, original_is: str | None = None) -> Attempt:
        """Gates and rewrites by the plan, or by its part on the groups `only`, and compares."""
        model = self._fresh()
        start = time.perf_counter()
        groups = find(model, self.frozen)
        decided = self.decide(groups, self.parts)
        plan, weights = decided.plan, decided.weights if self.with_weights else {}
        if only is not None:
            plan = Plan({name: kept for name, kept in plan.kept.items() if name in only})
        kept = CostModel(groups).exact(groups.removed(plan.kept))
        document = plan.to_json(groups)
        gates.insert(groups, {})
        seconds = time.perf_counter() - start
        gated = files.export(model)
        if original_is == OPEN:
            self._check_original(gated)
        gates.set_latents(gated, plan.latents(groups))
        if original_is == CLOSED:
            self._check_original(gated)
        gated.put(weights)
        recorded = record(gated, feeds=self._inputs(gated), seed=self.seed, where=self.where)
        start = time.perf_counter()
        gates.strip(model)
        put(model, weights)
        pruned = _pruned(groups, plan)
        try:
            rewrite.apply(groups, plan)
        except (KeyError, IndexError, TypeError, ValueError) as reason:
            log.debug("rewriting failed: %s", reason)
            return Attempt(gated, gated, FAILED, kept, document, pruned, 0.0, bool(weights))
        seconds += time.perf_counter() - start
        slim = files.export(model)
        return Attempt(gated, slim, _check(recorded, slim), kept, document, pruned, seconds, bool(weights))

    def _inputs(self, model: Apart) -> Iterator[Feed] | None:
        return self.feeds(model.light) if self.feeds else None

    def _check_original(self, gated: Apart) -> None:
        """Taken apart and put together, it must still be the original."""
        check = verify(self.original, gated, feeds=self._inputs(gated), seed=self.seed, where=self.where)
        if not check.equal:
            raise LawError(differs(self.where, "taken apart and put together", check))


def put(model: files.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Gives initializers other values, in place."""
    for tensor in model.graph.tensors().values() if weights else ():
        if isinstance(tensor, gs.Constant) and tensor.name in weights:
            tensor.values = weights[tensor.name]


def _check(recorded: Recording, slim: Apart) -> Verification:
    try:
        return compare(recorded, slim)
    except ModelError as reason:
        log.debug("the slim model does not run: %s", reason)
        return FAILED


def _pruned(groups: Groups, plan: Plan) -> tuple[str, ...]:
    return tuple(g.name for g in groups if g.name in plan.kept and len(plan.kept[g.name]) < g.size)
