"""A model and its large weights apart, so that checking, exporting and running it does not copy them.

The protobuf holds the graph; an initializer whose values stand apart is marked as external data in a place that is no
file. Arrays are shared by all models they belong to: nobody writes into them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, TensorProto

PLACE = "onnxprune: in memory"
"""Where the values of a marked initializer are said to lie."""
LARGE = 1 << 12
"""Values of at most so many bytes stay in the protobuf."""
ALIGNED = 64
"""Where weights begin in a file of their own: at multiples of so many bytes, so that it can be mapped and used."""
PLAIN: Mapping[int, np.dtype[Any]] = {
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)): np.dtype(name).newbyteorder("<")
    for name in (
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    )
}
"""Element types that numpy holds as the file does; all others stay in the protobuf, and int64, of which shapes are
made: onnxruntime infers shapes before it is handed the values."""


@dataclass
class Apart:
    """A model; `weights` are the values of its marked initializers, by name."""

    light: ModelProto
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def whole(self) -> ModelProto:
        """The same model as one protobuf; its weights are copies."""
        whole = ModelProto()
        whole.CopyFrom(self.light)
        for tensor in whole.graph.initializer:
            if is_apart(tensor):
                unmark(tensor)
                tensor.raw_data = self.weights[tensor.name].tobytes()
        return whole

    def put(self, values: Mapping[str, np.ndarray]) -> None:
        """Gives initializers other values of the same type and shape, in place."""
        for tensor in self.light.graph.initializer:
            if tensor.name in values and is_apart(tensor):
                dtype = self.weights[tensor.name].dtype
                self.weights[tensor.name] = np.asarray(values[tensor.name], dtype=dtype)
            elif tensor.name in values:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                value = np.asarray(values[tensor.name], dtype=dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))

    @property
    def size(self) -> int:
        """Bytes of the model as one file."""
        return sum(piece.nbytes for piece in self.pieces())

    def pieces(self) -> Iterator[memoryview]:
        """The model as one file, in pieces: byte for byte what protobuf writes of `whole()`."""
        initializers = [list(self._initializer(tensor)) for tensor in self.light.graph.initializer]
        number = GraphProto.INITIALIZER_FIELD_NUMBER
        graph = [memoryview(_written(self.light.graph, upto=number - 1))]
        for pieces in initializers:
            graph += [memoryview(_opened(number, sum(piece.nbytes for piece in pieces))), *pieces]
        graph.append(memoryview(_written(self.light.graph, beyond=number)))
        number = ModelProto.GRAPH_FIELD_NUMBER
        yield memoryview(_written(self.light, upto=number - 1))
        yield memoryview(_opened(number, sum(piece.nbytes for piece in graph)))
        yield from graph
        yield memoryview(_written(self.light, beyond=number))

    def beside(self) -> Iterator[memoryview]:
        """The large weights as a file of their own, in pieces."""
        for values in self.weights.values():
            yield np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            yield memoryview(bytes(-values.nbytes % ALIGNED))

    def referring_to(self, file: str) -> ModelProto:
        """The model whose large weights lie in a file of this name beside it."""
        model = ModelProto()
        model.CopyFrom(self.light)
        offsets, end = {}, 0
        for name, values in self.weights.items():
            offsets[name], end = end, end + values.nbytes + -values.nbytes % ALIGNED
        for tensor in model.graph.initializer:
            if is_apart(tensor):
                del tensor.external_data[:]
                facts = (file, offsets[tensor.name], self.weights[tensor.name].nbytes)
                for key, value in zip(("location", "offset", "length"), facts, strict=True):
                    tensor.external_data.add(key=key, value=str(value))
        return model

    def _initializer(self, tensor: TensorProto) -> Iterator[memoryview]:
        if not is_apart(tensor):
            yield memoryview(tensor.SerializeToString())
            return
        plain = TensorProto()
        plain.CopyFrom(tensor)
        unmark(plain)
        values = np.ascontiguousarray(self.weights[tensor.name])
        number = TensorProto.RAW_DATA_FIELD_NUMBER
        yield memoryview(_written(plain, upto=number))
        yield memoryview(_opened(number, values.nbytes))
        yield values.reshape(-1).view(np.uint8).data
        yield memoryview(_written(plain, beyond=number))


def take_apart(proto: ModelProto) -> Apart:
    """The same model with its large weights apart. They are copied; the rest of the result shares nothing either."""
    light, weights = without_initializers(proto), {}
    for tensor in proto.graph.initializer:
        if tensor.name not in weights and not tensor.external_data and fits(tensor, len(tensor.raw_data)):
            values = np.frombuffer(tensor.raw_data, PLAIN[tensor.data_type])
            weights[tensor.name] = values.reshape(tuple(tensor.dims)).copy()
            light.graph.initializer.append(marked(tensor))
        else:
            light.graph.initializer.append(tensor)
    return Apart(light, weights)


def without_initializers(proto: ModelProto) -> ModelProto:
    """A copy of everything else."""
    light = ModelProto()
    copy_fields(light, proto, leave="graph")
    copy_fields(light.graph, proto.graph, leave="initializer")
    return light


def fits(tensor: TensorProto, stored: int) -> bool:
    """Whether a tensor with so many bytes of values may stand apart; damaged ones may not."""
    dtype = PLAIN.get(tensor.data_type)
    if dtype is None or stored <= LARGE or not tensor.name or min(tensor.dims, default=0) < 0:
        return False
    return int(np.prod([int(n) for n in tensor.dims], dtype=object)) * dtype.itemsize == stored


def is_apart(tensor: TensorProto) -> bool:
    """Whether the values of this tensor are not in it."""
    return (
        tensor.data_location == TensorProto.EXTERNAL
        and len(tensor.external_data) == 1
        and tensor.external_data[0].value == PLACE
    )


def mark(tensor: TensorProto) -> None:
    """Says of a tensor, in place, that its values stand apart."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=PLACE)
    tensor.data_location = TensorProto.EXTERNAL


def unmark(tensor: TensorProto) -> None:
    """Takes the mark off, in place."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def marked(tensor: TensorProto) -> TensorProto:
    """A copy without the values."""
    copy = TensorProto()
    copy_fields(copy, tensor, leave="raw_data")
    mark(copy)
    return copy


def mark_of(name: str, values: np.ndarray) -> TensorProto:
    """The marked initializer of these values."""
    dtype = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor = TensorProto(name=name, data_type=dtype, dims=values.shape)
    mark(tensor)
    return tensor


def copy_fields(target: Message, source: Message, leave: str) -> None:
    """Copies what is set in a message, but for one field, which is not even read."""
    for descriptor in source.DESCRIPTOR.fields:
        if descriptor.name != leave:
            _copy_field(target, source, descriptor)


def _copy_field(target: Any, source: Any, descriptor: Any) -> None:
    name = descriptor.name
    value = getattr(source, name)
    if hasattr(value, "extend"):
        getattr(target, name).extend(value)
    elif source.HasField(name):
        if hasattr(value, "CopyFrom"):
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


def _written(message: Message, *, upto: int = 1 << 30, beyond: int = 0) -> bytes:
    """The fields whose numbers lie in a range, as protobuf writes them."""
    part = type(message)()
    for descriptor in message.DESCRIPTOR.fields:
        if beyond < descriptor.number <= upto:
            _copy_field(part, message, descriptor)
    return part.SerializeToString()


def _opened(number: int, size: int) -> bytes:
    """What stands before a field of so many bytes."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
