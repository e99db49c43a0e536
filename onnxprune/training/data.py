"""Samples for training, calibration and routing: `--data` of the command line.

Numpy only (no torch), because `slim` and `verify` read their calibration samples here as well.

    data = load("train.npz", [("x", np.float32, (None, 3, 32, 32))])
    len(data); data.labels; data.batch(range(32))[0].shape      # 45000; int64 [45000]; (32, 3, 32, 32)
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from onnxprune.errors import DataError
from onnxprune.training.images import Dims, ImageFiles, Pixels, Statistics, as_images, find_images

Input: TypeAlias = tuple[str, DTypeLike, Dims]
"""Name, element type and shape of a model input; None or a symbol for an open axis, None for an open rank."""

ONLY_INPUT, LABELS = "x", "y"

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Column:
    """All samples of one model input, as stored: samples on axis 0.

    With `pixels`, `values` are uint8 images (n, h, w, c) that become the input's floats batch by batch.
    """

    name: str
    values: NDArray[np.generic] | ImageFiles
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Data:
    """Samples of a model: one column per model input in the model's order, and labels where there are any."""

    columns: tuple[Column, ...]
    labels: NDArray[np.generic] | None
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


def load(
    path: str | Path,
    inputs: Sequence[Input],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Data:
    """Read an `.npz` file or a folder of images (in one folder per class, or flat) for a model with `inputs`.

    `mean` and `std` are per channel, on the 0..1 scale; ImageNet's unless given. Nothing is ever unpickled.
    Raises DataError for whatever cannot be fed to the model.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, inputs, Statistics(mean, std))
    if not path.exists():
        raise DataError(f"{path}: no such file or folder: give an .npz file or a folder of images")
    wanted = {name for name, _, _ in inputs} | {LABELS} | ({ONLY_INPUT} if len(inputs) == 1 else set())
    return from_arrays(_read_npz(path, wanted), inputs, mean=mean, std=std, source=str(path))


def from_arrays(
    arrays: Mapping[str, NDArray[np.generic]],
    inputs: Sequence[Input],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    source: str = "data",
) -> Data:
    """`arrays` by input name (or `x` for the only input), labels in `y`; rules and errors as for `load`."""
    columns, statistics = [], Statistics(mean, std)
    for name, dtype, dims in inputs:
        key = ONLY_INPUT if name not in arrays and len(inputs) == 1 else name
        if key not in arrays:
            found = ", ".join(sorted(arrays)) or "no usable array"
            named = f"'{name}' or '{ONLY_INPUT}'" if len(inputs) == 1 else f"'{name}'"
            raise DataError(f"{source}: has {found}, but not the model's input: name its array {named}")
        columns.append(_column(arrays[key], (name, dtype, dims), statistics, f"{source}: array '{key}'"))
    labels = None
    if LABELS in arrays and LABELS not in {name for name, _, _ in inputs}:
        labels = _labels(arrays[LABELS], source)
    lengths = {column.name: len(column.values) for column in columns}
    if labels is not None:
        lengths[LABELS] = len(labels)
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{count} in '{name}'" for name, count in lengths.items())
        raise DataError(f"{source}: the arrays differ in length ({listed}): give each sample in all of them")
    count = next(iter(lengths.values()))
    if count == 0:
        raise DataError(f"{source}: holds no samples: give at least one")
    return Data(tuple(columns), labels, np.arange(count), source)


def _read_npz(path: Path, wanted: set[str]) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path}: is one .npy array, not an .npz: write it with np.savez(path, x=array)"
                )
            return {name: archive[name] for name in archive.files if name in wanted}
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "Object arrays" in reason:
            reason = "it holds Python objects, which are never unpickled"
        raise DataError(
            f"{path}: no readable .npz: {reason}: write it with np.savez from plain arrays"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path}: larger than memory: give fewer samples, or a folder of images") from error


def _column(array: NDArray[np.generic], wanted: Input, statistics: Statistics, where: str) -> Column:
    name, dtype, dims = wanted[0], np.dtype(wanted[1]), wanted[2]
    if (array.dtype.kind not in "biuf" and array.dtype != dtype) or array.ndim == 0:
        raise DataError(f"{where} is {_shown(array)}: store one sample per entry of axis 0, as numbers")
    if array.dtype == np.uint8 and dtype.kind == "f":
        images = as_images(array, dims)
        return Column(name, images, Pixels.reading(images.shape, dims, dtype, statistics, where))
    if not _same_kind(array.dtype, dtype):
        raise DataError(f"{where} is {array.dtype}, but input '{name}' takes {dtype}: store it as {dtype}")
    if dims is not None and not _fits(array.shape, dims):
        axes = ", ".join(["n", *(str(d) if isinstance(d, int) else "?" for d in dims[1:])])
        raise DataError(f"{where} is {_shown(array)}, but input '{name}' takes ({axes}): reshape it so")
    if array.dtype.kind == "f" and np.isnan(array).any():
        bad = int(np.isnan(array).reshape(len(array), -1).any(axis=1).sum())
        raise DataError(f"{where} has NaN in {bad} of {len(array)} samples: remove or fill them")
    return Column(name, array if array.dtype == dtype else _cast(array, dtype, where))


def _labels(array: NDArray[np.generic], source: str) -> NDArray[np.generic]:
    where = f"{source}: labels '{LABELS}'"
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{where} are {_shown(array)}: store a class number or target values per sample")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise DataError(f"{where} hold NaN: remove those samples, or leave out '{LABELS}'")
        return array.astype(np.float32)
    return array.astype(np.int64)


def _same_kind(stored: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether only the width differs: floats for floats (bfloat16 is of kind V), integers for integers."""
    kinds = {"f": "f", "V": "f", "i": "i", "u": "i"}
    return stored == wanted or kinds.get(stored.kind, stored.kind) == kinds.get(wanted.kind, "other")


def _cast(array: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[np.generic]:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise DataError(f"{where} has values that {dtype} cannot hold: keep them in range")
    return cast


def _fits(shape: tuple[int, ...], dims: Sequence[int | str | None]) -> bool:
    pairs = zip(shape[1:], dims[1:], strict=False)
    return len(shape) == len(dims) and all(not isinstance(d, int) or d == s for s, d in pairs)


def _shown(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"


def _folder(path: Path, inputs: Sequence[Input], statistics: Statistics) -> Data:
    dims = inputs[0][2] if len(inputs) == 1 else None
    if dims is None or len(dims) != 4:
        raise DataError(f"{path}: images need a model with one 4-D image input: give an .npz file instead")
    name, dtype, _ = inputs[0]
    files, labels, classes = find_images(path)
    images = ImageFiles.at(files, dims)
    pixels = Pixels.reading(images.shape, dims, np.dtype(dtype), statistics, f"{path}: images")
    numbers = None if labels is None else np.asarray(labels, np.int64)
    return Data((Column(name, images, pixels),), numbers, np.arange(len(files)), str(path), classes)
