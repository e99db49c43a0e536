"""What a model computes on some inputs, written down for others to be held against."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.apart import Apart, take_apart
from onnxprune.errors import LawError, ModelError
from onnxprune.intake import read
from onnxprune.machine import release_memory
from onnxprune.session import batch_axes, declared_inputs, describe, open_session, random_inputs, reason

BATCHES = (2, 3)
"""Where the batch is dynamic: a wrong rule can show at one size only."""
SIZES = (256, 128, 64, 512, 384, 192, 96, 48, 32, 28, 16, 8)
"""Of other free axes, tried in turn where a model does not run at the usual ones."""

TRIES = range(2, 8)
"""Random inputs for a model without a batch: a detector may find nothing in the first, and trip over it."""

Feed = Mapping[str, np.ndarray]
Model = str | Path | onnx.ModelProto | Apart


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
    with Runner(model, provider, where, optimize) as runner:
        runs = [(feed, runner(feed)) for feed in feeds] if feeds is not None else runner.random_runs(seed)
        return Recording(model, runner.interface, runs, where, provider, optimize)


def parts(model: Model) -> Apart:
    """The model and its large weights apart."""
    found = read(Path(model)) if isinstance(model, str | Path) else model
    return take_apart(found) if isinstance(found, onnx.ModelProto) else found


Run = tuple[Feed, list[np.ndarray]]


class Runner:
    """A model in onnxruntime, with errors that name it; within a `with` statement, after which its memory is free."""

    def __init__(self, model: Model, provider: str, where: str | None, optimize: bool) -> None:
        self.model, self.where = model, where or describe(model)
        release_memory()
        try:
            self.session = open_session(model, provider=provider, optimize=optimize, exact=True, lean=True)
        except ModelError as error:
            raise ModelError(str(error).replace(describe(model), self.where, 1)) from None

    def __enter__(self) -> "Runner":
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

        Some files declare sizes free and run at one only, that at which they were traced: then at the first that does.
        """
        source = self.session
        if isinstance(self.model, onnx.ModelProto | Apart):
            source = self.model.light if isinstance(self.model, Apart) else self.model
        inputs = declared_inputs(source)
        batch = batch_axes(inputs)
        free = {axis for one in inputs for axis in one.shape if isinstance(axis, str)} - batch
        every_size = [dict.fromkeys(free, size) for size in SIZES] if free else []
        counts = (BATCHES, (1,)) if batch else tuple((n,) for n in TRIES)
        refused: list[ModelError] = []
        for sizes, batches in product([{}, *every_size], counts):
            try:
                return [self._random_run(source, count, seed, sizes) for count in batches]
            except ModelError as error:
                refused.append(error)
        raise refused[0]

    def _random_run(self, source: Any, batch: int, seed: int, sizes: Mapping[str, int]) -> Run:
        feed = random_inputs(source, batch=batch, seed=seed + batch, dynamic=sizes)
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
