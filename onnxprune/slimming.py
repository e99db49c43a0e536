"""`gate` and `slim`: the way from a model to a gated one, and to a smaller one that is proven to compute the same."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune import gates
from onnxprune import model as files
from onnxprune import plan as plans
from onnxprune.apart import Apart
from onnxprune.choose import Wish, choose
from onnxprune.compare.recording import Feed
from onnxprune.cost import CostModel
from onnxprune.errors import LawError, ModelError, PlanError
from onnxprune.garbage import uncollected
from onnxprune.groups import Groups, find
from onnxprune.methods.magnitude import magnitude
from onnxprune.plan import Plan
from onnxprune.proving import CLOSED, OPEN, Attempts, ModelLike, differs
from onnxprune.verify import Verification, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gated:
    """A gated model, and how far it is from the original with all gates open."""

    parts: Apart
    output: str | None
    groups: int
    gates: int
    max_rel_error: float

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The gated model as one protobuf, a copy of its weights."""
        return self.parts.whole()

    def to_json(self) -> dict[str, Any]:
        return {
            "output": self.output, "groups": self.groups, "gates": self.gates, "max_rel_error": self.max_rel_error
        }  # fmt: skip


@dataclass(frozen=True)
class Slimmed:
    """A slim model, proven equal to its gated counterpart."""

    slim_parts: Apart
    gated_parts: Apart
    output: str | None
    asked: float | None
    by: str
    kept: Mapping[str, float]
    """Fractions of the original's channels, params, macs and bytes."""
    verified: Verification
    seconds: float
    """Analysis and rewriting; loading, checking and saving apart."""
    plan: Mapping[str, Any]
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Groups that the check found out and froze, with the reason."""

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The slim model as one protobuf, a copy of its weights."""
        return self.slim_parts.whole()

    @cached_property
    def gated(self) -> onnx.ModelProto:
        """Its gated counterpart as one protobuf, a copy of its weights."""
        return self.gated_parts.whole()

    def to_json(self) -> dict[str, Any]:
        verified = {k: v for k, v in self.verified.to_json().items() if k != "equal"}
        return {
            "output": self.output, "asked": self.asked, "by": self.by, "kept": dict(self.kept), "verified": verified,
            "seconds": round(self.seconds, 3), "plan": dict(self.plan), "frozen": dict(self.frozen),
        }  # fmt: skip


@uncollected()
def gate(
    model: ModelLike, output: str | Path | None = None, *, plan: str | Path | None = None, force: bool = True
) -> Gated:
    """Inserts gates, all open or as `plan` says; with all of them open the function is unchanged, which is checked.

    `output`: where to write the gated model; None only returns it. Raises ModelError, PlanError, LawError, OutputError.
    """
    if output is not None:
        files.writable(output, force=force)
    loaded = files.load(model)
    if gates.is_gated(loaded):
        raise ModelError(
            f"{loaded.where}: has gates already; give the model without them, or go on with train or slim"
        )
    groups = find(loaded)
    if not groups.groups:
        raise PlanError(f"{loaded.where}: nothing can be pruned; onnxprune inspect says why")
    closed = plans.load(plan, groups) if plan is not None else None
    count = gates.insert(groups, {})
    opened = files.export(loaded)
    check = verify(model, opened)
    if not check.equal:
        raise LawError(differs(loaded.where, "with all gates open", check))
    if closed is not None:
        gates.set_latents(opened, closed.latents(groups))
    if output is not None:
        files.save(opened, output, force=force)
    return Gated(opened, str(output) if output else None, len(groups.groups), count, check.max_rel_error)


@uncollected()
def slim(
    model: ModelLike,
    output: str | Path | None = None,
    *,
    ratio: float | None = None,
    by: str = "channels",
    criterion: str = "l2",
    keep: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    multiple_of: int | str = "auto",
    min_channels: int = 1,
    scope: str = "layer",
    drop_branches: bool = False,
    plan: str | Path | None = None,
    feeds: Callable[[onnx.ModelProto], Iterator[Feed]] | None = None,
    save_plan: str | Path | None = None,
    save_gated: str | Path | None = None,
    force: bool = True,
    seed: int = 0,
) -> Slimmed:
    """Removes channels from a plain, gated or trained gated model, and proves that nothing else changed.

    Which channels: `plan` where given; the gates of a trained model; else `criterion` for the `ratio` of `by` to keep.
    `feeds`: inputs to prove it on (by name), given the model; random ones unless given. A group for which the proof
    fails is frozen and named in `frozen`; the model that comes back is exact.
    `drop_branches`: with the scope global, branches that a residual goes past may go altogether.
    Raises ModelError, PlanError, LawError, OutputError.
    """
    wish = None
    if ratio is not None:
        wish = Wish(ratio, by, multiple_of, min_channels, scope, tuple(keep), tuple(only), drop_branches)
    for path in (output, save_plan, save_gated):
        if path is not None:
            files.writable(path, force=force)
    source = files.load(model)
    decide = _Decision(source, wish, criterion, plan)
    attempts = Attempts(model, source, decide, decide.original_is, feeds, seed)
    done = attempts.exact()
    size = done.slim.size
    if save_plan is not None:
        files.write_text(save_plan, done.plan_json, force=force)
    if save_gated is not None:
        files.save(done.gated, save_gated, force=force)
    if output is not None:
        size = files.save(done.slim, output, force=force)
    original = attempts.parts.size
    kept = {**done.kept, "bytes": size / original if original else 1.0}
    asked = ratio if ratio is not None else decide.trained_ratio
    return Slimmed(
        done.slim, done.gated, str(output) if output else None, asked, decide.by(by), kept, done.verified,
        done.seconds, done.plan_json, attempts.frozen,
    )  # fmt: skip


class _Decision:
    """Which channels stay: by plan, by trained gates, or by criterion and ratio."""

    def __init__(
        self, source: files.Model, wish: Wish | None, criterion: str, plan: str | Path | None
    ) -> None:
        self.wish, self.criterion, self.path = wish, criterion, plan
        self.plain = not gates.is_gated(source)
        self.trained = _trained(source)
        self.latents = gates.strip(source)
        self.closed = any((w <= 0).any() for w in self.latents.values())
        if wish is None and plan is None and not self.closed:
            raise PlanError(
                f"{source.where}: no gate is closed; say how much to keep with --ratio, or give a --plan"
            )

    @property
    def original_is(self) -> str | None:
        """What the file must be equal to: gates of its own that are replaced say nothing of it."""
        return OPEN if self.plain else CLOSED if self.by_gates else None

    @property
    def by_gates(self) -> bool:
        """Whether the file's own gates decide."""
        wish = self.wish
        return self.path is None and (wish is None or self.trained == (wish.ratio, wish.by))

    @property
    def trained_ratio(self) -> float | None:
        return self.trained[0] if self.trained and self.path is None else None

    def by(self, asked: str) -> str:
        return self.trained[1] if self.trained and self.wish is None else asked

    def __call__(self, groups: Groups) -> Plan:
        if self.path is not None:
            return plans.load(self.path, groups)
        unknown = (
            set(self.latents)
            - {group.name for group in groups}
            - {group.name for group in groups.frozen_by_check}
        )
        if unknown:
            raise ModelError(
                f"{groups.model.where}: gates '{min(unknown)}' fit no channel group; gate the model anew"
            )
        if self.by_gates or self.wish is None:
            return plans.check(
                Plan({g.name: np.flatnonzero(self.latents[g.name] > 0) for g in groups if g.name in self.latents}),
                groups, groups.model.where,
            )  # fmt: skip
        if self.closed:
            log.warning(
                "the model was not trained for this ratio: channels are ranked by the weights of its gates"
            )
            wish = Wish(**{**self.wish.__dict__, "scope": "global"})
            return choose(groups, CostModel(groups), _ranks(groups, self.latents), wish)
        return choose(groups, CostModel(groups), magnitude(groups, self.criterion), self.wish)


def _ranks(groups: Groups, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gates' weights as positive scores that compare between groups."""
    least = min((float(w.min()) for w in values.values()), default=0.0)
    return {g.name: values.get(g.name, np.ones(g.size)) - least for g in groups}


def _trained(source: files.Model) -> tuple[float, str] | None:
    for entry in source.header.metadata_props:
        if entry.key == gates.TRAINED_KEY:
            ratio, _, by = entry.value.partition(" ")
            with contextlib.suppress(ValueError):  # an entry of somebody else's
                return float(ratio), by
    return None
