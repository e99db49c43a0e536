"""The law: gated and slim model compute the same function, measured in onnxruntime."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxprune.errors import LawError, ModelError
from onnxprune.session import batch_axes, declared_inputs, describe, open_session, random_inputs, reason

TOLERANCE = {np.dtype(np.float16): 1e-2, np.dtype(np.float64): 1e-10}
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

    @property
    def equal(self) -> bool:
        return self.max_rel_error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal}


Feed = Mapping[str, np.ndarray]


def verify(
    gated: str | Path | onnx.ModelProto,
    slim: str | Path | onnx.ModelProto,
    *,
    feeds: Iterable[Feed] | None = None,
    tolerance: float | None = None,
    provider: str = "cpu",
    seed: int = 0,
) -> Verification:
    """Runs both models on the same inputs (`feeds`, by input name; random ones unless given).

    Raises ModelError where the two have other inputs or outputs, or one does not run; LawError where there is nothing
    to compare because an output is NaN or infinite throughout.
    """
    a, b = (open_session(model, provider=provider, exact=True) for model in (gated, slim))
    _same_interface(a, b, gated, slim)
    worst, samples, limit = 0.0, 0, 1e-5
    given = ((feed, _run(a, feed, gated)) for feed in feeds) if feeds is not None else _random_runs(gated, a, seed)
    for feed, left in given:
        right = _run(b, feed, slim)
        samples += next(iter(feed.values())).shape[0] if feed and next(iter(feed.values())).ndim else 1
        for output, x, y in zip(a.get_outputs(), left, right, strict=True):
            worst = max(worst, relative_error(x, y, output.name))
            limit = max(limit, TOLERANCE.get(x.dtype, 1e-5))
    return Verification(worst, limit if tolerance is None else tolerance, samples)


Model = str | Path | onnx.ModelProto
Run = tuple[Feed, list[np.ndarray]]


def _random_runs(model: Model, session: onnxruntime.InferenceSession, seed: int) -> list[Run]:
    """Random inputs and the outputs for them; at two batch sizes where the batch is dynamic.

    Some files declare a free batch and run at 1 only (a recurrent state of fixed size, say): then at that.
    """
    source = model if isinstance(model, onnx.ModelProto) else session
    free = bool(batch_axes(declared_inputs(source)))
    try:
        return [_random_run(model, session, batch, seed) for batch in (BATCHES if free else BATCHES[:1])]
    except ModelError:
        return [_random_run(model, session, 1, seed)]


def _random_run(model: Model, session: onnxruntime.InferenceSession, batch: int, seed: int) -> Run:
    source = model if isinstance(model, onnx.ModelProto) else session
    feed = random_inputs(source, batch=batch, seed=seed + batch)
    return feed, _run(session, feed, model)


def relative_error(a: np.ndarray, b: np.ndarray, name: str) -> float:
    """Max |a - b| / max |a|; infinite where shapes or non-finite entries differ. Raises LawError where no entry is finite."""
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fiub" or not a.size:
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if not finite.any():
        raise LawError(
            f"output '{name}' is NaN or infinite for every entry: nothing can be compared; give inputs with --data"
        )
    apart = np.abs(np.where(finite, x, 0.0) - np.where(finite, y, 0.0))
    if (finite != np.isfinite(y)).any() or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    scale = np.abs(x[finite]).max()
    difference = apart.max()
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))


def _same_interface(
    a: onnxruntime.InferenceSession, b: onnxruntime.InferenceSession, gated: Any, slim: Any
) -> None:
    for kind in ("get_inputs", "get_outputs"):
        names = [[tensor.name for tensor in getattr(session, kind)()] for session in (a, b)]
        if names[0] != names[1]:
            raise ModelError(
                f"{describe(gated)} and {describe(slim)} have other {kind[4:]}: {names[0]} and {names[1]}; compare a model with its own slim one"
            )


def _run(
    session: onnxruntime.InferenceSession, feed: Feed, model: str | Path | onnx.ModelProto
) -> list[np.ndarray]:
    try:
        return [np.asarray(value) for value in session.run(None, dict(feed))]
    except Exception as error:  # onnxruntime's exceptions share no root but this
        raise ModelError(f"{describe(model)}: does not run ({reason(error)})") from None
