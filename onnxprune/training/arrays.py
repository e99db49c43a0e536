"""Arrays as columns and labels: whatever does not fit the model is a DataError.

Arrays that are read from storage sample by sample go through the same checks, batch by batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.preprocessing import Pixels, Preprocessing, as_images
from onnxprune.training.samples import Column, Data, Input, Values

ONLY_INPUT, LABELS = "x", "y"


def from_arrays(
    arrays: Mapping[str, NDArray[np.generic]],
    inputs: Sequence[Input],
    *,
    preprocessing: Preprocessing | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    source: str = "data",
) -> Data:
    """`arrays` by input name (or `x` for the only input), labels in `y`.

    `mean` and `std` are those of a Preprocessing that asks for nothing else. Raises DataError for whatever cannot be
    fed to the model.
    """
    asked = preprocessing or Preprocessing(mean, std)
    columns = []
    for wanted in inputs:
        key = ONLY_INPUT if wanted[0] not in arrays and len(inputs) == 1 else wanted[0]
        if key not in arrays:
            found = ", ".join(sorted(arrays)) or "no usable array"
            named = f"'{wanted[0]}' or '{ONLY_INPUT}'" if len(inputs) == 1 else f"'{wanted[0]}'"
            raise DataError(f"{source}: has {found}, but not the model's input: name its array {named}")
        columns.append(column(arrays[key], wanted, asked, f"{source}: array '{key}'"))
    labels = None
    if LABELS in arrays and LABELS not in {name for name, _, _ in inputs}:
        labels = checked_labels(arrays[LABELS], f"{source}: labels '{LABELS}'")
    return assembled(columns, labels, source)


def assembled(
    columns: Sequence[Column], labels: Values | None, source: str, classes: tuple[str, ...] = ()
) -> Data:
    """All samples of `columns`; DataError where there are none, or they differ in number."""
    lengths = {column.name: len(column.values) for column in columns}
    if labels is not None:
        lengths[LABELS] = len(labels)
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{count} in '{name}'" for name, count in lengths.items())
        raise DataError(f"{source}: the arrays differ in length ({listed}): give each sample in all of them")
    count = next(iter(lengths.values()))
    if count == 0:
        raise DataError(f"{source}: holds no samples: give at least one")
    return Data(tuple(columns), labels, np.arange(count), source, classes)


def column(array: NDArray[np.generic], wanted: Input, asked: Preprocessing, where: str) -> Column:
    """`array` for the input `wanted`."""
    name, dtype, dims = wanted[0], np.dtype(wanted[1]), wanted[2]
    if (array.dtype.kind not in "biuf" and array.dtype != dtype) or array.ndim == 0:
        raise DataError(f"{where} is {_shown(array)}: store one sample per entry of axis 0, as numbers")
    if array.dtype == np.uint8 and dtype.kind == "f":
        images = as_images(array, dims)
        return Column(name, images, Pixels.reading(images.shape, dims, dtype, asked, where))
    if not _same_kind(array.dtype, dtype):
        raise DataError(f"{where} is {array.dtype}, but input '{name}' takes {dtype}: store it as {dtype}")
    if dims is not None and not _fits(array.shape, dims):
        axes = ", ".join(["n", *(str(d) if isinstance(d, int) else "?" for d in dims[1:])])
        raise DataError(f"{where} is {_shown(array)}, but input '{name}' takes ({axes}): reshape it so")
    if array.dtype.kind == "f" and np.isnan(array).any():
        bad = int(np.isnan(array).reshape(len(array), -1).any(axis=1).sum())
        raise DataError(f"{where} has NaN in {bad} of {len(array)} samples: remove or fill them")
    return Column(name, array if array.dtype == dtype else _cast(array, dtype, where))


def checked_labels(array: NDArray[np.generic], where: str) -> NDArray[Any]:
    """Class numbers as int64, targets as float32."""
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(f"{where} are {_shown(array)}: store a class number or target values per sample")
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise DataError(f"{where} hold NaN: remove those samples, or leave them all unlabelled")
        return array.astype(np.float32)
    return array.astype(np.int64)


@dataclass(frozen=True)
class Checked:
    """Stored `values`, each batch of which goes through `check` when it is read."""

    values: Values
    check: Callable[[NDArray[Any]], NDArray[Any]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    where: str

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        checked = self.check(self.values[rows])
        if checked.shape[1:] != self.shape[1:] or checked.dtype != self.dtype:
            raise DataError(
                f"{self.where}: {_shown(checked[0])} among rows {_listed(rows)}, unlike the first sample, "
                f"{self.dtype} {self.shape[1:]}: give all samples one type and shape"
            )
        return checked

    @staticmethod
    def of(values: Values, check: Callable[[NDArray[Any]], NDArray[Any]], where: str) -> "Checked":
        """With the first sample read and checked now."""
        first = check(values[np.arange(1)])
        return Checked(values, check, (len(values), *first.shape[1:]), first.dtype, where)


def stored_column(values: Values, wanted: Input, asked: Preprocessing, where: str) -> Column:
    """`values` in storage for the input `wanted`: the first sample is read now, the others when asked for."""
    if len(values) == 0:
        raise DataError(f"{where}: holds no samples: give at least one")
    first = column(values[np.arange(1)], wanted, asked, where)
    check = partial(_values_of, wanted=wanted, asked=asked, where=where)
    return Column(wanted[0], Checked.of(values, check, where), first.pixels)


def stored_labels(values: Values, where: str) -> Values:
    """Labels in storage: single numbers are read now, anything larger when asked for."""
    check = partial(checked_labels, where=where)
    labels = Checked.of(values, check, where)
    return labels if len(labels.shape) > 1 else check(values[np.arange(len(values))])


def stacked(
    samples: Iterable[NDArray[Any]], rows: NDArray[np.intp], where: Callable[[int], str]
) -> NDArray[Any]:
    """The samples of `rows` as one array; DataError names the first that differs from the one before."""
    arrays = list(samples)
    for row, before, array in zip(rows[1:], arrays, arrays[1:], strict=False):
        if (array.shape, array.dtype.kind) != (before.shape, before.dtype.kind):
            raise DataError(
                f"{where(int(row))} is {_shown(array)}, others are {_shown(before)}: give all samples one type "
                "and shape"
            )
    return np.stack(arrays)


def _values_of(array: NDArray[Any], wanted: Input, asked: Preprocessing, where: str) -> NDArray[Any]:
    """What `column` makes of an array."""
    values = column(array, wanted, asked, where).values
    assert isinstance(values, np.ndarray)
    return values


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
    return len(shape) == len(dims) and all(not isinstance(dim, int) or dim == size for size, dim in pairs)


def _shown(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"


def _listed(rows: NDArray[np.intp]) -> str:
    return ", ".join(map(str, rows[:4].tolist())) + (", ..." if len(rows) > 4 else "")
