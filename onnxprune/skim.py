"""Reads a file without holding it twice: the graph is parsed, large weights are read straight into arrays.

Follows protobuf's wire format (protobuf.dev/programming-guides/encoding) only as far as the initializers of the main
graph. Whatever looks unusual there is left to protobuf.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from onnxprune import apart
from onnxprune.apart import PLAIN, Apart, mark

LARGEST = 2**31 - 1
"""Bytes that a protobuf may have."""


@dataclass(frozen=True)
class _Field:
    number: int
    key: int
    """Where it begins."""
    start: int
    """Where its content begins."""
    end: int
    nested: bool


class _UnusualError(ValueError):
    """Not written as protobuf libraries write it."""


def skim(path: Path) -> Apart | None:
    """The model of a file with its large weights apart; None where the file is not as usual. Raises OSError."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _skimmed(data, file) if len(data) <= LARGEST else None
        except (_UnusualError, DecodeError, IndexError, ValueError):
            return None


def _skimmed(data: mmap.mmap, file: IO[bytes]) -> Apart:
    graph = _one(_fields(data, 0, len(data)), ModelProto.GRAPH_FIELD_NUMBER)
    if graph is None:
        raise _UnusualError
    weights: dict[str, np.ndarray] = {}
    light, done = bytearray(), graph.start
    for found in _fields(data, graph.start, graph.end):
        if found.number == GraphProto.INITIALIZER_FIELD_NUMBER and found.nested:
            tensor = _marked(data, found, file, weights)
            if tensor is not None:
                light += data[done : found.key] + _initializer(tensor)
                done = found.end
    light += data[done : graph.end]
    proto = ModelProto()
    proto.ParseFromString(data[: graph.key] + data[graph.end :])
    proto.graph.ParseFromString(bytes(light))
    return Apart(proto, weights)


def _marked(
    data: mmap.mmap, found: _Field, file: IO[bytes], weights: dict[str, np.ndarray]
) -> TensorProto | None:
    """The tensor without its values, which go into `weights`; None where it has to stay whole."""
    raw = _one(_fields(data, found.start, found.end), TensorProto.RAW_DATA_FIELD_NUMBER)
    if raw is None:
        return None
    size = raw.end - raw.start
    if size <= apart.LARGE:
        return None
    tensor = TensorProto()
    tensor.ParseFromString(data[found.start : raw.key] + data[raw.end : found.end])
    if tensor.name in weights or tensor.external_data or not apart.fits(tensor, size):
        return None
    dtype = PLAIN[tensor.data_type]
    file.seek(raw.start)
    values = np.fromfile(file, dtype, size // dtype.itemsize)
    weights[tensor.name] = values.reshape(tuple(tensor.dims))
    mark(tensor)
    return tensor


def _initializer(tensor: TensorProto) -> bytes:
    return GraphProto(initializer=[tensor]).SerializeToString()


def _one(fields: Iterator[_Field], number: int) -> _Field | None:
    """The field of this number, if there is one; it must hold bytes and be the only one."""
    found = [field for field in fields if field.number == number]
    if len(found) > 1 or any(not field.nested for field in found):
        raise _UnusualError
    return found[0] if found else None


VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
"""Kinds of fields."""


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        key = position
        tag, start = _varint(data, position)
        kind = tag & 7
        if kind == BYTES:
            size, start = _varint(data, start)
            position = start + size
        elif kind == VARINT:
            position = _varint(data, start)[1]
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            position = start + (8 if kind == EIGHT_BYTES else 4)
        else:
            raise _UnusualError
        if position > end:
            raise _UnusualError
        yield _Field(tag >> 3, key, start, position, kind == BYTES)


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value, shift = 0, 0
    while True:
        digit = data[position]
        value |= (digit & 127) << shift
        position, shift = position + 1, shift + 7
        if digit < 128:
            return value, position
        if shift > 63:
            raise _UnusualError
