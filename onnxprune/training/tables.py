"""Parquet files and what Hugging Face `Dataset.save_to_disk` wrote, memory-mapped by the library `datasets`.

Parquet is converted once into Arrow files in that library's cache (HF_DATASETS_CACHE), and from then on mapped.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.arrays import assembled, stored_column, stored_labels
from onnxprune.training.images import image_column, mask_labels
from onnxprune.training.preprocessing import Preprocessing
from onnxprune.training.samples import Column, Data, Input, Stored, Values

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

ONLY = ("image", "img", "x", "pixel_values")
LABELS = ("y", "label", "labels", "annotation", "mask")
SAVED, SPLITS = "dataset_info.json", "dataset_dict.json"


def is_table(path: Path) -> bool:
    """Whether `path` is a Parquet file, a folder of them, or a saved Dataset or DatasetDict."""
    if path.is_dir():
        return any((path / name).exists() for name in (SAVED, SPLITS)) or any(path.glob("*.parquet"))
    return path.suffix == ".parquet"


def read_table(path: Path, inputs: Sequence[Input], asked: Preprocessing) -> Data:
    """The columns of the table at `path` that bear the inputs' names, and its labels."""
    table = _open(path)
    kinds = {name: _kind(type_) for name, type_ in _types(table).items()}
    named = {wanted[0]: _named(wanted[0], len(inputs), kinds, path) for wanted in inputs}
    columns = [_column(table, wanted, named[wanted[0]], kinds, asked, path) for wanted in inputs]
    label = next((name for name in LABELS if name in kinds and name not in named.values()), None)
    labels, classes = None, tuple[str, ...]()
    if label is not None:
        labels = _labels(table, label, kinds[label], columns, path)
        classes = tuple(getattr(table.features[label], "names", None) or ())
    return assembled(columns, labels, str(path), classes)


@dataclass(frozen=True)
class Cells:
    """A column of encoded images."""

    table: "datasets.Dataset"
    column: str
    source: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> bytes:
        value = self.table[row][self.column][0].as_py()
        content = value["bytes"] if isinstance(value, Mapping) else value
        if not isinstance(content, bytes):
            raise DataError(
                f"{self.where(row)}: holds no image, but a path or nothing: store the image itself"
            )
        return content

    def where(self, row: int) -> str:
        return f"{self.source}: row {row} of column '{self.column}'"


@dataclass(frozen=True)
class Numbers(Stored):
    """A column of numbers, or of lists of them of one shape."""

    table: "datasets.Dataset"
    column: str
    source: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        whole = len(rows) == len(self) and np.array_equal(rows, np.arange(len(self)))
        cells = (self.table[:] if whole else self.table[rows.tolist()])[self.column]
        return _dense(cells.combine_chunks(), f"{self.source}: column '{self.column}'")


def _open(path: Path) -> "datasets.Dataset":
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path}: tables need the library datasets: pip install 'onnxprune[data]'") from error
    parquet = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        with _quiet():
            found = _mapped(parquet) if parquet else datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow's own, those of datasets, OSError: whatever a broken file leads to
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise DataError(f"{path}: cannot be read as a table: {reason}: write it anew") from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise DataError(
                f"{path}: has the splits {', '.join(found)}, but no 'train': give one's own folder"
            )
        found = found["train"]
    if len(found) == 0:
        raise DataError(f"{path}: holds no samples: give at least one")
    return found.with_format("arrow")


def _mapped(files: Sequence[Path]) -> "datasets.Dataset":
    import datasets
    import pyarrow.parquet as pq

    filled = [str(file) for file in files if pq.read_metadata(file).num_rows]
    return datasets.Dataset.from_parquet(filled) if filled else datasets.Dataset.from_dict({})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars and log: what is wrong is told by the error."""
    import datasets

    logger, hidden = logging.getLogger("datasets"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not hidden:
            datasets.enable_progress_bars()


def _types(table: "datasets.Dataset") -> dict[str, "pa.DataType"]:
    return {field.name: field.type for field in table[:1].schema}


def _kind(type_: "pa.DataType") -> str:
    """What a column holds: "image", "array", "number", or nothing that can be fed: "other"."""
    import pyarrow as pa

    if pa.types.is_struct(type_):
        return "image" if type_.get_field_index("bytes") >= 0 else "other"
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "image"
    nested = False
    while _is_list(type_) or isinstance(type_, pa.ExtensionType):
        nested = nested or _is_list(type_)
        type_ = type_.storage_type if isinstance(type_, pa.ExtensionType) else type_.value_type
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_):
        return "array" if nested else "number"
    return "other"


def _is_list(type_: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    )


def _named(name: str, inputs: int, kinds: Mapping[str, str], path: Path) -> str:
    """The column for the input `name`."""
    fitting = [n for n, kind in kinds.items() if kind in ("image", "array") and n not in LABELS]
    choices = [name] if name in kinds else []
    if inputs == 1:
        choices += [known for known in ONLY if known in fitting]
        choices += fitting if len(fitting) == 1 else []
    if not choices:
        listed = ", ".join(f"'{n}' ({kind})" for n, kind in kinds.items())
        raise DataError(
            f"{path}: no column fits the input '{name}' among {listed}: name one '{name}'"
            + (f" or one of {', '.join(ONLY)}" if inputs == 1 else "")
        )
    return choices[0]


def _column(
    table: "datasets.Dataset",
    wanted: Input,
    name: str,
    kinds: Mapping[str, str],
    asked: Preprocessing,
    path: Path,
) -> Column:
    where = f"{path}: column '{name}'"
    _refuse_missing(table, name, where)
    if kinds[name] == "image":
        return image_column(Cells(_only(table, name), name, str(path)), wanted, asked, where)
    if kinds[name] == "other":
        raise DataError(f"{where} is {_types(table)[name]}: store numbers or images")
    return stored_column(Numbers(_only(table, name), name, str(path)), wanted, asked, where)


def _labels(table: "datasets.Dataset", name: str, kind: str, columns: Sequence[Column], path: Path) -> Values:
    where = f"{path}: labels '{name}'"
    _refuse_missing(table, name, where)
    if kind == "image":
        return mask_labels(Cells(_only(table, name), name, str(path)), columns[0], where)
    if kind == "other":
        raise DataError(
            f"{where} are {_types(table)[name]}: store a class number or target values per sample"
        )
    return stored_labels(Numbers(_only(table, name), name, str(path)), where)


def _only(table: "datasets.Dataset", name: str) -> "datasets.Dataset":
    return table.select_columns([name])


def _refuse_missing(table: "datasets.Dataset", name: str, where: str) -> None:
    cells = _only(table, name)[:][name]
    if cells.null_count:
        row = cells.is_null().to_pylist().index(True)
        raise DataError(
            f"{where}: {cells.null_count} of {len(cells)} are missing, the first in row {row}: fill them"
        )


def _dense(cells: "pa.Array", where: str) -> NDArray[Any]:
    """Nested lists of one length per level as one array."""
    import pyarrow as pa

    shape = [len(cells)]
    while _is_list(cells.type) or isinstance(cells.type, pa.ExtensionType):
        if isinstance(cells.type, pa.ExtensionType):
            cells = cells.storage
            continue
        lengths = np.unique(cells.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            listed = ", ".join(f"{length:g}" for length in lengths[:4])
            raise DataError(f"{where}: lists of the lengths {listed}: give all samples one shape")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        cells = cells.flatten()
    return np.asarray(cells.to_numpy(zero_copy_only=False)).reshape(shape)
