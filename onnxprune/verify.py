"""The law: gated and slim model compute the same function, measured in onnxruntime."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from onnxprune.apart import Apart
from onnxprune.compare.closer import look_closer
from onnxprune.compare.recording import Feed, Model, Recording, Runner, parts, record, relative_error
from onnxprune.compare.unrounded import unrounded
from onnxprune.errors import ModelError
from onnxprune.session import describe

log = logging.getLogger(__name__)

TOLERANCE = {np.dtype(np.float16): 1e-2}
"""Per element type of the outputs; 1e-5 for float32 and everything else."""


@dataclass(frozen=True)
class Verification:
    """How far two models are apart: max |a - b| / max |a| over all outputs and inputs."""

    max_rel_error: float
    tolerance: float
    inputs: int
    """Samples compared."""
    rounded: float | None = None
    """How far quantised models, which are compared without rounding, are apart with it; None for all others."""
    undecided: float | None = None
    """How far models that are compared on the same decisions are apart when each makes its own; None for all others."""
    single: float | None = None
    """How far models that are compared in double precision are apart in single precision; None for all others."""

    @property
    def equal(self) -> bool:
        return self.max_rel_error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "equal": self.equal}
        return {name: value for name, value in found.items() if value is not None}


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
    quantised models counts how far they are apart without rounding (`compare/unrounded.py`), which would hide what is
    below its step and magnify what flips it; of models that differ by a little, how far they are apart on the same
    decisions and in double precision (`compare/closer.py`).
    Raises ModelError where the two have other inputs or outputs, or one does not run; LawError where there is nothing
    to prove because an output holds NaN or no finite number.
    """
    return compare(record(gated, feeds=feeds, provider=provider, seed=seed, where=where), slim, tolerance)


def compare(recorded: Recording, slim: Model, tolerance: float | None = None) -> Verification:
    """How far `slim` is from the recorded model, as `verify` has it."""
    found = _distance(recorded, slim, tolerance)
    real = _without_rounding(recorded, slim, tolerance)
    if real is not None:
        recorded, slim, apart = real
        found = replace(apart, rounded=found.max_rel_error)
    if found.equal:
        return found
    closer = look_closer(recorded, slim, found.max_rel_error, found.tolerance)
    if closer is None or closer.max_rel_error >= found.max_rel_error:
        return found
    return replace(
        found,
        max_rel_error=closer.max_rel_error,
        undecided=found.max_rel_error if closer.decided else None,
        single=closer.single if closer.single != closer.max_rel_error else None,
    )


def _without_rounding(
    recorded: Recording, slim: Model, tolerance: float | None
) -> tuple[Recording, Apart, Verification] | None:
    """Both models without rounding and how far they are apart; None where they round nothing, or do not run so."""
    try:
        second = _unrounded(slim)
        first = _unrounded(recorded.model) if second is not None else None
        if first is None or second is None:
            return None
        feeds = [feed for feed, _ in recorded.runs]
        real = record(first, feeds=feeds, provider=recorded.provider, where=recorded.where, optimize=False)
        return real, second, _distance(real, second, tolerance)
    except ModelError as error:
        log.debug("not compared without rounding: %s", error)
        return None


def _unrounded(model: Model) -> Apart | None:
    apart = parts(model)
    real = unrounded(apart.light)
    return None if real is None else Apart(real, apart.weights)


def _distance(recorded: Recording, slim: Model, tolerance: float | None) -> Verification:
    worst, samples, limit = 0.0, 0, 1e-5
    with Runner(slim, recorded.provider, recorded.where, recorded.optimize) as runner:
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
