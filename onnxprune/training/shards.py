"""WebDataset shards: tar files whose members of one key are one sample, read by an index of their offsets.

The library webdataset streams its shards in order (its former random access, wids, is no part of it since 1.0);
shuffling, held-out samples and resuming need any sample at any time, so only the headers are read beforehand.
"""

import io
import json
import re
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.arrays import (
    ONLY_INPUT,
    assembled,
    checked_labels,
    stacked,
    stored_column,
    stored_labels,
)
from onnxprune.training.images import SUFFIXES, image_column, mask_labels
from onnxprune.training.preprocessing import Preprocessing
from onnxprune.training.samples import Column, Data, Input, Stored, Values

LABEL_ARRAYS = ("label.npy", "y.npy")
MASK, CLASS, FACTS = "seg.png", "cls", "json"
IMAGE = "image"  # what the suffixes of images are listed under: shards may mix them

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")


def shards_of(path: Path) -> tuple[Path, ...]:
    """The tar files that `path` stands for (a file, a folder of them, a pattern with braces); empty: none."""
    if path.is_dir():
        return tuple(sorted(path.glob("*.tar")))
    if path.suffix != ".tar":
        return ()
    return (path,) if path.exists() else tuple(map(Path, _expanded(str(path))))


def read_shards(shards: Sequence[Path], inputs: Sequence[Input], asked: Preprocessing, source: str) -> Data:
    """All samples of `shards` in order; labels where their members have any."""
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file: {len(missing)} of {len(shards)} shards of {source} are missing"
        )
    index = _index(tuple(shards), source)
    columns = [_column(index, wanted, len(inputs), asked, source) for wanted in inputs]
    return assembled(columns, _labels(index, columns, source), source)


@dataclass(frozen=True)
class Members:
    """The members of one suffix, one a sample: `at` holds shard, offset and size for each, int64 [n, 3]."""

    shards: tuple[Path, ...]
    at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, row: int) -> bytes:
        shard, offset, size = self.at[row].tolist()
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset)
                content: bytes = file.read(size)
        except OSError as error:
            raise DataError(f"{self.where(row)}: {error.strerror}: give the shard back") from error
        if len(content) < size:
            raise DataError(
                f"{self.where(row)}: the shard is shorter than it was: do not change it meanwhile"
            )
        return content

    def where(self, row: int) -> str:
        shard, offset, _ = self.at[row].tolist()
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset - tarfile.BLOCKSIZE)
                header = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "replace")
        except (OSError, tarfile.TarError):
            return f"{self.shards[shard]}: sample {row}"
        return f"{self.shards[shard]}: {header.name}"


@dataclass(frozen=True)
class Arrays(Stored):
    """Members that are `.npy` arrays of one shape."""

    members: Members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        return stacked((self._read(int(row)) for row in rows), rows, self.members.where)

    def _read(self, row: int) -> NDArray[Any]:
        try:
            return np.asarray(np.load(io.BytesIO(self.members[row]), allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())
            if "Object arrays" in reason or "pickled" in reason:
                reason = "it holds Python objects, which are never unpickled"
            raise DataError(
                f"{self.members.where(row)}: no readable array: {reason}: write it with np.save"
            ) from error


Index: TypeAlias = Mapping[str, Members | DataError]
"""The members of each suffix, or why they are none: raised where they are asked for."""


def _expanded(pattern: str) -> Iterator[str]:
    """`pattern` with its braces spelled out: {000..004} as numbers of that width, {a,b} as they are."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    first, last, listed = braces.groups()
    width = len(first or "")
    texts = listed.split(",") if listed else [f"{n:0{width}}" for n in range(int(first), int(last) + 1)]
    for text in texts:
        yield from _expanded(pattern[: braces.start()] + text + pattern[braces.end() :])


def _index(shards: tuple[Path, ...], source: str) -> Index:
    """The members of each suffix, or the error that it is missing from some samples."""
    found: dict[str, array[int]] = {}
    firsts = array("q")
    for number, shard in enumerate(shards):
        keys: dict[str, int] = {}
        for name, offset, size in _members(shard):
            match = _KEY.fullmatch(name)
            if match is None:
                continue
            if match[1] not in keys:
                keys[match[1]] = len(firsts) // 3
                firsts.extend((number, offset, size))
            entry = (keys[match[1]], number, offset, size)
            found.setdefault(_suffix(match[2]), array("q")).extend(entry)
    if not firsts:
        raise DataError(f"{source}: holds no samples: give members such as 0001.jpg and 0001.cls")
    samples = Members(shards, np.asarray(firsts, np.int64).reshape(-1, 3))
    return {suffix: _of_suffix(samples, suffix, entries) for suffix, entries in found.items()}


def _of_suffix(samples: Members, suffix: str, entries: "array[int]") -> Members | DataError:
    """The members of `suffix` in the order of `samples`, which holds the first member of each."""
    table = np.asarray(entries, np.int64).reshape(-1, 4)
    table = table[np.argsort(table[:, 0], kind="stable")]
    twice = np.flatnonzero(np.diff(table[:, 0]) == 0)
    if len(twice):
        return DataError(f"{samples.where(int(table[twice[0], 0]))}: its key has two .{suffix}: give one")
    if len(table) < len(samples):
        absent = int(np.setdiff1d(np.arange(len(samples)), table[:, 0])[0])
        return DataError(
            f"{samples.where(absent)}: {len(samples) - len(table)} of {len(samples)} samples have no .{suffix}, this "
            "is the first: give it to all or none"
        )
    return Members(samples.shards, table[:, 1:])


def _whole(index: Index, suffix: str) -> Members:
    members = index[suffix]
    if isinstance(members, DataError):
        raise members
    return members


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the files in `shard`; DataError where it is cut off or no tar."""
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # they would pile up
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
            stopped = tar.offset
        with shard.open("rb") as file:
            file.seek(stopped)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"it ends without an end mark after {stopped} bytes")
    except (OSError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{shard}: no whole, uncompressed tar: {reason}: write or fetch it anew") from error


def _suffix(text: str) -> str:
    lower = text.lower()
    stem, _, last = lower.rpartition(".")
    if f".{last}" not in SUFFIXES or lower == MASK:
        return lower
    return f"{stem}.{IMAGE}" if stem else IMAGE


def _column(index: Index, wanted: Input, inputs: int, asked: Preprocessing, source: str) -> Column:
    name = wanted[0].lower()
    images, arrays = [f"{name}.{IMAGE}"], [f"{name}.npy"]
    if inputs == 1:
        images, arrays = [*images, IMAGE], [*arrays, "npy", f"{ONLY_INPUT}.npy"]
    for suffix in (*images, *arrays):
        if suffix in index:
            where = f"{source}: members .{suffix}"
            members = _whole(index, suffix)
            if suffix in images:
                return image_column(members, wanted, asked, where)
            return stored_column(Arrays(members), wanted, asked, where)
    listed = ", ".join(f".{suffix}" for suffix in sorted(index))
    needed = f".{name}.npy" + (
        ", .npy or an image such as .jpg" if inputs == 1 else " or an image such as .{name}.jpg"
    )
    raise DataError(f"{source}: no member fits the input '{wanted[0]}' among {listed}: give {needed}")


def _labels(index: Index, columns: Sequence[Column], source: str) -> Values | None:
    where = f"{source}: labels"
    if CLASS in index:
        members = _whole(index, CLASS)
        return np.asarray([_class(members, row) for row in range(len(members))], np.int64)
    for suffix in LABEL_ARRAYS:
        if suffix in index:
            return stored_labels(Arrays(_whole(index, suffix)), f"{where} .{suffix}")
    if MASK in index:
        return mask_labels(_whole(index, MASK), columns[0], f"{where} .{MASK}")
    if FACTS in index:
        members = _whole(index, FACTS)
        found = [_fact(members, row) for row in range(len(members))]
        given = [value is not None for value in found]
        if not any(given):
            return None
        if not all(given):
            raise DataError(
                f'{members.where(given.index(False))}: has no "label", others have: give it to all or none'
            )
        rows = np.arange(len(found))
        return checked_labels(stacked(map(np.asarray, found), rows, members.where), f"{where} .{FACTS}")
    return None


def _class(members: Members, row: int) -> int:
    text = members[row].strip()
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{members.where(row)}: {text[:20].decode(errors='replace')!r} is no class number: store it as digits"
        ) from None


def _fact(members: Members, row: int) -> Any:
    """The "label" of a JSON object, None where it has none."""
    try:
        facts = json.loads(members[row])
    except ValueError as error:
        raise DataError(
            f"{members.where(row)}: no JSON: {' '.join(str(error).split())}: write it anew"
        ) from error
    return facts.get("label") if isinstance(facts, dict) else None
