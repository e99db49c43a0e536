"""The law: gated and slim model compute the same function, measured in onnxruntime."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.apart import Apart, take_apart
from onnxprune.errors import LawError, ModelError
from onnxprune.intake import read
from onnxprune.machine import release_memory
from onnxprune.session import batch_axes, declared_inputs, describe, open_session, random_inputs, reason
from onnxprune.unrounded import unrounded

log = logging.getLogger(__name__)

TOLERANCE = {np.dtype(np.float16): 1e-2}
"""Per element type of the outputs; 1e-5 for float32 and everything else."""
BATCHES = (2, 3)
"""Where the batch is dynamic: a wrong rule can show at one size only."""


@dataclass(frozen=True)
class Verification:
    """How far two models are apart: max |a - b| / max |a| over all outputs and inputs."""

    max_rel_error: float
    tolerance: float
    inputs: int
    """Samples compared."""
    rounded: float | None = None
    """How far quantised models, which are compared without rounding, are apart with it; None for all others."""

    @property
    def equal(self) -> bool:
        return self.max_rel_error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "equal": self.equal}
        return {name: value for name, value in found.items() if name != "rounded" or value is not None}


Feed = Mapping[str, np.ndarray]
Model = str | Path | onnx.ModelProto | Apart


def verify(
    gated: Model,
    slim: Model,
    *,
    feeds: Iterable[Feed] | None = None,
    tolerance: float | None = None,
    provider: str = "cpu",
    seed: int = 0,
    where: str | None = None,
) -> Verification:
    """Runs both models on the same inputs (`feeds`, by input name; random ones unless given).

    The models run one after the other, so that only one is in memory. `where` is how messages call the models. Of
    quantised models counts how far they are apart without rounding (see `unrounded.py`), which would hide what is
    below its step and magnify what flips it.
    Raises ModelError where the two have other inputs or outputs, or one does not run; LawError where there is nothing
    to prove because an output holds NaN or no finite number.
    """
    return compare(record(gated, feeds=feeds, provider=provider, seed=seed, where=where), slim, tolerance)


@dataclass(frozen=True)
class Recording:
    """What a model computes on some inputs, for others to be held against."""

    model: Model
    interface: tuple[list[str], list[str]]
    """Names of inputs and outputs."""
    runs: Sequence[tuple[Feed, list[np.ndarray]]]
    where: str | None
    provider: str
    optimize: bool


def record(
    model: Model,
    *,
    feeds: Iterable[Feed] | None = None,
    provider: str = "cpu",
    seed: int = 0,
    where: str | None = None,
    optimize: bool = True,
) -> Recording:
    """Runs the model as `verify` does. Raises ModelError where it does not run."""
    with _Runner(model, provider, where, optimize) as runner:
        runs = [(feed, runner(feed)) for feed in feeds] if feeds is not None else runner.random_runs(seed)
        return Recording(model, runner.interface, runs, where, provider, optimize)


def compare(recorded: Recording, slim: Model, tolerance: float | None = None) -> Verification:
    """How far `slim` is from the recorded model, as `verify` has it."""
    found = _distance(recorded, slim, tolerance)
    feeds = [feed for feed, _ in recorded.runs]
    try:
        second = _unrounded(slim)
        first = _unrounded(recorded.model) if second is not None else None
        if first is None or second is None:
            return found
        real = record(first, feeds=feeds, provider=recorded.provider, where=recorded.where, optimize=False)
        return replace(_distance(real, second, tolerance), rounded=found.max_rel_error)
    except ModelError as error:
        log.debug("not compared without rounding: %s", error)
        return found


def _unrounded(model: Model) -> Apart | None:
    parts = read(Path(model)) if isinstance(model, str | Path) else model
    parts = take_apart(parts) if isinstance(parts, onnx.ModelProto) else parts
    real = unrounded(parts.light)
    return None if real is None else Apart(real, parts.weights)


def _distance(recorded: Recording, slim: Model, tolerance: float | None) -> Verification:
    worst, samples, limit = 0.0, 0, 1e-5
    with _Runner(slim, recorded.provider, recorded.where, recorded.optimize) as runner:
        if recorded.interface != runner.interface:
            raise ModelError(
                f"{describe(recorded.model)} and {describe(slim)} have other inputs or outputs "
                f"({recorded.interface}, {runner.interface}); compare a model with its own slim one"
            )
        for feed, left in recorded.runs:
            samples += next(iter(feed.values())).shape[0] if feed and next(iter(feed.values())).ndim else 1
            for output, x, y in zip(recorded.interface[1], left, runner(feed), strict=True):
                worst = max(worst, relative_error(x, y, output))
                limit = max(limit, TOLERANCE.get(x.dtype, 1e-5))
    return Verification(worst, limit if tolerance is None else tolerance, samples)


Run = tuple[Feed, list[np.ndarray]]


class _Runner:
    """A model in onnxruntime, with errors that name it; within a `with` statement, after which its memory is free."""

    def __init__(self, model: Model, provider: str, where: str | None, optimize: bool) -> None:
        self.model, self.where = model, where or describe(model)
        release_memory()
        try:
            self.session = open_session(model, provider=provider, optimize=optimize, exact=True, lean=True)
        except ModelError as error:
            raise ModelError(str(error).replace(describe(model), self.where, 1)) from None

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *_: object) -> None:
        del self.session
        release_memory()

    @property
    def interface(self) -> tuple[list[str], list[str]]:
        """Names of inputs and outputs."""
        return [i.name for i in self.session.get_inputs()], [o.name for o in self.session.get_outputs()]

    def __call__(self, feed: Feed) -> list[np.ndarray]:
        try:
            return [np.asarray(value) for value in self.session.run(None, dict(feed))]
        except Exception as error:  # onnxruntime's exceptions share no root but this
            raise ModelError(f"{self.where}: does not run ({reason(error)})") from None

    def random_runs(self, seed: int) -> list[Run]:
        """Random inputs and the outputs for them; at two batch sizes where the batch is dynamic.

        Some files declare a free batch and run at 1 only (a recurrent state of fixed size, say): then at that.
        """
        source = self.session
        if isinstance(self.model, onnx.ModelProto | Apart):
            source = self.model.light if isinstance(self.model, Apart) else self.model
        free = bool(batch_axes(declared_inputs(source)))
        try:
            return [self._random_run(source, batch, seed) for batch in (BATCHES if free else BATCHES[:1])]
        except ModelError:
            return [self._random_run(source, 1, seed)]

    def _random_run(self, source: Any, batch: int, seed: int) -> Run:
        feed = random_inputs(source, batch=batch, seed=seed + batch)
        return feed, self(feed)


def relative_error(a: np.ndarray, b: np.ndarray, name: str) -> float:
    """Max |a - b| / max |a|; infinite where shapes or infinite entries differ. Raises LawError on NaN in a."""
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fiub" or not a.size:
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if np.isnan(x).any() or not finite.any():
        raise LawError(
            f"output '{name}' holds NaN, or no finite number, and proves nothing; give other inputs with --data"
        )
    apart = np.abs(np.where(finite, x, 0.0) - np.where(finite, y, 0.0))
    if (finite != np.isfinite(y)).any() or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    scale = np.abs(x[finite]).max()
    difference = apart.max()
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))
