"""Samples from `--data` as inputs of a model: what a result is proven on, and channels and weights are fitted on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.session import Input, declared_inputs, fixed_batch
from onnxprune.training.data import Data, Preprocessing, from_arrays, load

SAMPLES = 64
"""So many at the most to prove a result on: enough to see a difference, few enough to keep the outputs in memory."""
ENTRIES = 1 << 21
"""Entries of the inputs of one batch, at the most, and so of what runs through the model at once."""
BATCH = 32
"""Samples of one batch, at the most."""
FEWEST = 8
"""Batches to split few samples into, so that a part of them can be held out."""

REPAIRS = ("weights", "statistics", "biases", "none")
"""What of each op is fitted, so that it makes of its inputs in the pruned model what it made in the whole one: all of
its weights; the mean and the variance of each channel that it makes, as new BatchNorm statistics would; the mean."""

Source = str | Path | Mapping[str, Any]
"""What `onnxprune.training.data.load` reads, or arrays by input name."""


@dataclass(frozen=True)
class Feeds:
    """Called with a model, gives its inputs batch by batch: of 2 samples, or as many as the model prescribes."""

    data: Source
    preprocessing: Preprocessing | None = None

    def __call__(self, model: onnx.ModelProto) -> Iterator[dict[str, np.ndarray]]:
        """Raises DataError where the data does not fit the model or is too little."""
        inputs = declared_inputs(model)
        samples = samples_of(self.data, inputs, self.preprocessing)
        size = _enough(samples, fixed_batch(inputs), min(2, len(samples)))
        whole = max(min(SAMPLES, len(samples)) // size, 1) * size  # no last batch of another size
        yield from samples.batches(size, limit=whole)


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs to choose channels and repair weights by: `samples` of them, drawn at random."""

    data: Source
    preprocessing: Preprocessing | None = None
    samples: int = 1024

    @property
    def feeds(self) -> Feeds:
        """The same data to prove the result on."""
        return Feeds(self.data, self.preprocessing)

    def draw(self, model: onnx.ModelProto, seed: int) -> "Batches":
        """Raises DataError where the data does not fit the model or is too little."""
        if self.samples < 1:
            raise DataError(f"{self.samples} samples are none to calibrate on; give 1 or more with --samples")
        found = samples_of(self.data, declared_inputs(model), self.preprocessing)
        return drawn(found, model, self.samples, seed)


@dataclass(frozen=True)
class Batches(Sequence[dict[str, np.ndarray]]):
    """Batches of equal size, read when they are asked for; `rows` are the samples of each, shape (batches, size)."""

    data: Data
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Samples of one batch."""
        return int(self.rows.shape[1])

    @property
    def samples(self) -> Data:
        """All of them, in their order."""
        return self.data.take(self.rows.reshape(-1))

    @overload
    def __getitem__(self, number: int) -> dict[str, np.ndarray]: ...
    @overload
    def __getitem__(self, number: slice) -> "Batches": ...

    def __getitem__(self, number: int | slice) -> "dict[str, np.ndarray] | Batches":
        if isinstance(number, slice):
            return replace(self, rows=self.rows[number])
        arrays = self.data.batch(self.rows[number])
        return {column.name: array for column, array in zip(self.data.columns, arrays, strict=True)}

    def split(self, every: int) -> "tuple[Batches, Batches]":
        """All but one of so many, and those; of fewer the last is held out, and a single one serves as both."""
        held = np.zeros(len(self), dtype=bool)
        held[every - 1 :: every] = True
        held[-1] |= not held.any()
        fitting = self.rows[~held] if len(self) > 1 else self.rows
        return replace(self, rows=fitting), replace(self, rows=self.rows[held])


def drawn(found: Data, model: onnx.ModelProto, samples: int, seed: int) -> Batches:
    """So many of these samples of the model's inputs, or all, at random. Raises DataError where they are too few."""
    order = np.random.default_rng(seed).permutation(len(found))[:samples]
    entries = max(sum(prod(values.shape[1:]) for values in found.batch(order[:1])), 1)
    free = min(1 << max(ENTRIES // entries, 1).bit_length() - 1, BATCH, max(len(order) // FEWEST, 1))
    size = _enough(found, fixed_batch(declared_inputs(model)), free)
    return Batches(found, order[: len(order) // size * size].reshape(-1, size))


def samples_of(data: Source, inputs: Sequence[Input], preprocessing: Preprocessing | None) -> Data:
    """The samples as the model's inputs. Raises DataError."""
    wanted = [
        (i.name, i.dtype, (None, *(None if isinstance(n, str) else n for n in i.shape[1:]))) for i in inputs
    ]
    if isinstance(data, str | Path):
        return load(data, wanted, preprocessing=preprocessing)
    return from_arrays(data, wanted, preprocessing=preprocessing)


def _enough(samples: Data, prescribed: int | None, free: int) -> int:
    """The size of a batch."""
    size = prescribed or free
    if not len(samples) or len(samples) < size:
        raise DataError(
            f"{samples.source}: has {len(samples)} samples, the model takes {max(size, 1)} at a time; give so many"
        )
    return size
