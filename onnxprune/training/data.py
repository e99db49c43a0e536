"""Samples for training, calibration and routing: `--data` of the command line.

Free of torch, because `slim` and `verify` read their calibration samples here as well.

    data = load("train.npz", [("x", np.float32, (None, 3, 32, 32))])
    len(data); data.labels; data.batch(range(32))[0].shape      # 45000; int64 [45000]; (32, 3, 32, 32)
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.arrays import LABELS, ONLY_INPUT, assembled, column, from_arrays, stored_column
from onnxprune.training.folders import read_folder
from onnxprune.training.functions import is_function, read_function
from onnxprune.training.preprocessing import Preprocessing
from onnxprune.training.samples import Column, Data, Input
from onnxprune.training.shards import read_shards, shards_of
from onnxprune.training.tables import is_table, read_table

__all__ = ["Column", "Data", "Input", "Preprocessing", "from_arrays", "load"]

SCANNED = 1 << 30
"""Bytes of a mapped array that are read at once to look for NaN; a larger one is looked at batch by batch."""

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def load(
    path: str | Path,
    inputs: Sequence[Input],
    *,
    preprocessing: Preprocessing | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Data:
    """Read samples for a model with `inputs` from what `path` names.

    That is an `.npz` or `.npy` file; a folder of images in class folders, flat, or as images/ and masks/; Parquet, or
    what Hugging Face `save_to_disk` wrote; WebDataset shards (a tar, a folder of them, or train-{000..004}.tar); or
    `module:function`. `mean` and `std` are those of a Preprocessing that asks for nothing else. Nothing is ever
    unpickled. Raises DataError for whatever cannot be fed to the model.
    """
    path, asked = Path(path), preprocessing or Preprocessing(mean, std)
    if is_function(path):
        return read_function(path, inputs, asked)
    if shards := shards_of(path):
        return read_shards(shards, inputs, asked, str(path))
    if not path.exists():
        raise DataError(f"{path}: no such file or folder: give {_FORMS}")
    if is_table(path):
        return read_table(path, inputs, asked)
    if path.is_dir():
        return read_folder(path, inputs, asked)
    if path.suffix == ".npy":
        return _read_npy(path, inputs, asked)
    wanted = {name for name, _, _ in inputs} | {LABELS} | ({ONLY_INPUT} if len(inputs) == 1 else set())
    return from_arrays(_read_npz(path, wanted), inputs, preprocessing=asked, source=str(path))


_FORMS = "an .npz or .npy file, a folder of images, Parquet, tar shards or module:function"


@dataclass(frozen=True)
class Mapped:
    """An `.npy` file, mapped anew for each read: worker processes share nothing but its path."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        return np.asarray(_map(self.path)[rows])


def _read_npy(path: Path, inputs: Sequence[Input], asked: Preprocessing) -> Data:
    if len(inputs) != 1:
        names = ", ".join(name for name, _, _ in inputs)
        raise DataError(f"{path}: one array for the inputs {names}: give an .npz with an array for each")
    mapped, where = _map(path), f"{path}: the array"
    if mapped.ndim == 0 or mapped.nbytes <= SCANNED:
        column(mapped, inputs[0], asked, where)
    values = Mapped(path, mapped.shape, mapped.dtype)
    return assembled([stored_column(values, inputs[0], asked, where)], None, str(path))


def _map(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise DataError(f"{path}: no readable .npy: {_reason(error)}: write it with np.save") from error


def _read_npz(path: Path, wanted: set[str]) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: is one .npy array, not an .npz: give it that suffix")
            return {name: archive[name] for name in archive.files if name in wanted}
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: no readable .npz: {_reason(error)}: write it with np.savez from plain arrays"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path}: larger than memory: give an .npy, shards, or a folder of images") from error


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        "it holds Python objects, which are never unpickled"
        if "bject" in reason and "rray" in reason
        else reason
    )
