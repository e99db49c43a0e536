"""Data from a function of the user's: arrays, or a map-style dataset such as those of torch and torchvision.

def train(): return torchvision.datasets.CIFAR10("data", transform=ToTensor())      # --data mydata:train
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.arrays import (
    LABELS,
    ONLY_INPUT,
    Checked,
    assembled,
    checked_labels,
    from_arrays,
    stacked,
    stored_column,
)
from onnxprune.training.preprocessing import Preprocessing
from onnxprune.training.samples import Data, Input, Stored
from onnxprune.training.user_code import import_from

_NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def is_function(path: Path) -> bool:
    """Whether `path` is named module:function, with or without the folder the module lies in."""
    return _NAME.fullmatch(path.name) is not None and not path.exists()


def read_function(path: Path, inputs: Sequence[Input], asked: Preprocessing) -> Data:
    """What the function gives; it takes no argument. Its module is looked for in the folder of `path` too."""
    function, source = _function(path), path.name
    try:
        given = function()
    except Exception as error:
        raise _failed(source, error) from error
    if isinstance(given, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in given.items()}
        return from_arrays(arrays, inputs, preprocessing=asked, source=source)
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise DataError(
            f"{source}: returned {type(given).__name__}: return a mapping of arrays, or a dataset with __len__ and "
            "__getitem__"
        )
    if len(given) == 0:
        raise DataError(f"{source}: holds no samples: give at least one")
    items = Items(given, tuple(name for name, _, _ in inputs), source)
    columns = [
        stored_column(Part(items, wanted[0]), wanted, asked, f"{source}: '{wanted[0]}'") for wanted in inputs
    ]
    if LABELS not in items.names or LABELS in items.inputs:
        return assembled(columns, None, source)
    where = f"{source}: labels '{LABELS}'"
    labels = Checked.of(Part(items, LABELS), partial(checked_labels, where=where), where)
    return assembled(columns, labels, source)


class Items:
    """A dataset's samples by name; those read last are kept, because their parts are asked for one by one."""

    def __init__(self, dataset: Any, inputs: tuple[str, ...], source: str) -> None:
        self.dataset, self.inputs, self.source = dataset, inputs, source
        self._rows: list[int] = []
        self._samples: list[dict[str, NDArray[Any]]] = []
        self.names = tuple(self.samples([0])[0])

    def samples(self, rows: list[int]) -> list[dict[str, NDArray[Any]]]:
        """These samples, each a dict by input name and LABELS."""
        if rows != self._rows:
            self._samples, self._rows = [self._sample(row) for row in rows], rows
        return self._samples

    def where(self, row: int) -> str:
        return f"{self.source}: sample {row}"

    def _sample(self, row: int) -> dict[str, NDArray[Any]]:
        try:
            item = self.dataset[row]
            parts = self._named(item if isinstance(item, Mapping | tuple | list) else (item,))
            sample = {name: np.asarray(value) for name, value in parts.items()}
        except Exception as error:
            raise _failed(self.where(row), error) from error
        missing = [name for name in self.inputs if name not in sample]
        if missing or len(parts) > len(self.inputs) + 1:
            names = [f"'{name}'" for name in item] if isinstance(item, Mapping) else [f"{len(parts)} values"]
            raise DataError(
                f"{self.where(row)}: gives {', '.join(names) or 'nothing'} where the inputs are "
                f"{', '.join(self.inputs)}: give a dict by input name, and '{LABELS}', or a tuple of the inputs and "
                "the label"
            )
        return sample

    def _named(self, item: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        if not isinstance(item, Mapping):
            return dict(zip((*self.inputs, LABELS, *map(str, range(len(item)))), item, strict=False))
        known = {str(name): value for name, value in item.items()}
        if len(self.inputs) == 1 and ONLY_INPUT in known and self.inputs[0] not in known:
            known[self.inputs[0]] = known[ONLY_INPUT]
        return {name: known[name] for name in (*self.inputs, LABELS) if name in known}


@dataclass(frozen=True)
class Part(Stored):
    """One of the parts of all samples: an input, or the labels."""

    items: Items
    name: str

    def __len__(self) -> int:
        return len(self.items.dataset)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        samples = self.items.samples(rows.tolist())
        without = next((row for row, s in zip(rows, samples, strict=True) if self.name not in s), None)
        if without is not None:
            raise DataError(
                f"{self.items.where(int(without))}: has no '{self.name}': give it to all samples or none"
            )
        return stacked((s[self.name] for s in samples), rows, self.items.where)


def _function(path: Path) -> Callable[[], Any]:
    module, name = path.name.split(":")
    try:
        function = getattr(import_from(path.parent, module), name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise _failed(f"{path.name}, looked for in {path.parent.resolve()}", error) from error
    if not callable(function):
        raise DataError(
            f"{path.name}: is of type {type(function).__name__}: name a function that takes no argument"
        )
    return function  # type: ignore[no-any-return]


def _failed(where: str, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    reason = " ".join(str(error).split()) or "no reason given"
    return DataError(f"{where}: {type(error).__name__}: {reason}: mend it there")
