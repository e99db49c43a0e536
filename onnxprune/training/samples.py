"""Samples of a model, wherever they come from: columns that are read by row numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from onnxprune.errors import DataError
from onnxprune.training.preprocessing import Dims, Pixels

Input: TypeAlias = tuple[str, DTypeLike, Dims]
"""Name, element type and shape of a model input; None or a symbol for an open axis, None for an open rank."""


class Values(Protocol):
    """One value per sample, read like an array when indexed by row numbers, from wherever it is stored."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[Any]: ...


class Stored(ABC):
    """Values that are read from storage, whose first sample tells the shape and type of all."""

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self[np.arange(1)].shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self[np.arange(1)].dtype

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Column:
    """All samples of one model input, as stored: samples on axis 0.

    With `pixels`, `values` are uint8 images (n, h, w, c) that become the input's floats batch by batch.
    """

    name: str
    values: Values
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Data:
    """Samples of a model: one column per model input in the model's order, and labels where there are any."""

    columns: tuple[Column, ...]
    labels: Values | None
    rows: NDArray[np.intp]
    source: str
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: ArrayLike) -> "Data":
        """Only these samples, in this order; the arrays are shared."""
        return replace(self, rows=self.rows[np.asarray(which, np.intp)])

    def split(self, fraction: float, seed: int = 0) -> tuple["Data", "Data"]:
        """A random `1 - fraction` and the held-out `fraction`; the same two parts for the same seed."""
        held = round(len(self) * fraction)
        if not 0 < held < len(self):
            raise DataError(
                f"{self.source}: {len(self)} samples cannot give a held-out part of {fraction:g}: "
                "give more samples, another fraction, or separate validation data"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))

    def stored(self, which: ArrayLike) -> tuple[NDArray[np.generic], ...]:
        """The columns' stored values of these samples (uint8 pixels stay pixels)."""
        rows = self.rows[np.asarray(which, np.intp)]
        return tuple(column.values[rows] for column in self.columns)

    def batch(self, which: ArrayLike) -> tuple[NDArray[np.generic], ...]:
        """These samples as the model takes them, one array per model input."""
        values = self.stored(which)
        return tuple(
            value if column.pixels is None else column.pixels.to_input(value)
            for column, value in zip(self.columns, values, strict=True)
        )

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The first `limit` samples (all of them by default) in order, `size` at a time, by input name."""
        end = len(self) if limit is None else min(limit, len(self))
        for start in range(0, end, size):
            arrays = self.batch(np.arange(start, min(start + size, end)))
            yield {column.name: array for column, array in zip(self.columns, arrays, strict=True)}

    def labels_of(self, which: ArrayLike) -> NDArray[np.generic] | None:
        """The labels of these samples, None where the data is unlabelled."""
        return None if self.labels is None else self.labels[self.rows[np.asarray(which, np.intp)]]

    def describe(self) -> str:
        """What is done to the images, in one line for the log; empty where there are none."""
        return "; ".join(
            f"input '{c.name}': images of {c.values.shape[1]}x{c.values.shape[2]} pixels"
            f"{getattr(c.values, 'resizing', '')}, {c.pixels.describe()}"
            for c in self.columns
            if c.pixels is not None
        )
