"""What a file must be before it is taken apart: readable, whole, its external data in place, and valid ONNX."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from onnxprune.apart import PLAIN, Apart, fits, is_apart, mark, take_apart, without_initializers
from onnxprune.errors import ModelError
from onnxprune.shapes.foreign import taught
from onnxprune.skim import skim


def read(path: Path) -> Apart:
    """The model of a file, external data included. Raises ModelError."""
    try:
        found = skim(path) or _parsed(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the path of an ONNX model") from None
    except OSError as reason:
        raise ModelError(
            f"{path}: cannot be read ({reason.strerror}); give the path of an ONNX model"
        ) from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one; export or copy it again") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: damaged (a name is no text); copy or export it again") from None
    proto = found.light
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path}: holds no ONNX graph; give a file that an exporter wrote")
    main = len(proto.graph.initializer)
    for number, tensor in enumerate(tensors(proto.graph)):
        new = number < main and tensor.name not in found.weights
        if uses_external_data(tensor) and (new or not is_apart(tensor)):
            _load_external(tensor, path, found.weights if new else None)
    return found


def _parsed(path: Path) -> Apart:
    proto = onnx.ModelProto()
    proto.ParseFromString(path.read_bytes())
    return take_apart(proto)


def tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """All tensors that a graph holds: initializers first, then those of attributes and bodies."""
    found = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += tensors(inner)
    return found


def _load_external(tensor: onnx.TensorProto, path: Path, weights: dict[str, np.ndarray] | None) -> None:
    """Reads a tensor's values from beside the model, into `weights` where they may stand apart."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.parent.resolve()
    location = facts.get("location", "")
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or folder not in target.parents:
        raise ModelError(
            f"{path}: weight '{tensor.name}' lies in '{location}', outside the model's folder; move it beside the model"
        )
    if not target.is_file():
        raise ModelError(
            f"{path}: weight '{tensor.name}' lies in '{location}', which is missing; copy it beside the model"
        )
    try:
        offset, length = int(facts.get("offset", 0)), int(facts.get("length", 0) or _bytes(tensor))
    except ValueError:
        raise ModelError(
            f"{path}: weight '{tensor.name}' has a malformed offset or length; export the model again"
        ) from None
    if offset < 0 or length != _bytes(tensor) or offset + length > target.stat().st_size:
        raise ModelError(
            f"{path}: '{location}' does not hold the {_bytes(tensor)} bytes of weight '{tensor.name}'; copy it again"
        )
    if weights is not None and fits(tensor, length):
        dtype = PLAIN[tensor.data_type]
        values = np.fromfile(target, dtype, length // dtype.itemsize, offset=offset)
        weights[tensor.name] = values.reshape(tuple(tensor.dims))
        mark(tensor)
        return
    load_external_data_for_tensor(tensor, str(folder))
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def _bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's data by its declared shape."""
    bits = 4 if tensor.data_type in _FOUR_BITS else 8 * _numpy_type(tensor).itemsize
    return -(-prod(tensor.dims) * bits // 8)


_FOUR_BITS = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, getattr(onnx.TensorProto, "FLOAT4E2M1", -1)}


def _numpy_type(tensor: onnx.TensorProto) -> np.dtype[Any]:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        raise ModelError(f"weight '{tensor.name}' has the unknown element type {tensor.data_type}") from None


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError where a model, its large weights apart or not, is no valid one."""
    size = proto.ByteSize()
    for tensor in tensors(proto.graph):
        if any(n < 0 for n in tensor.dims):
            raise ModelError(f"{where}: weight '{tensor.name}' has a negative size; export the model again")
        if is_apart(tensor):
            continue
        if tensor.HasField("raw_data") and tensor.data_type and len(tensor.raw_data) != _bytes(tensor):
            raise ModelError(
                f"{where}: weight '{tensor.name}' is declared as {list(tensor.dims)}, {_bytes(tensor)} bytes, "
                f"but holds {len(tensor.raw_data)}; copy or export the model again"
            )
        if not tensor.HasField("raw_data") and prod(tensor.dims) > size:
            raise ModelError(
                f"{where}: weight '{tensor.name}' is declared larger than the file; export the model again"
            )
    _check_names(proto.graph, where)
    try:
        with taught(proto, to_checker=True):
            onnx.checker.check_model(without_weights(proto))
    except onnx.checker.ValidationError as reason:
        raise ModelError(f"{where}: refused by the onnx checker: {one_line(reason)}") from None
    except (UnicodeDecodeError, EncodeError, ValueError) as reason:
        raise ModelError(f"{where}: damaged ({one_line(reason)}); copy or export it again") from None


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    """Names must be text: protobuf reads damaged ones without a word, and refuses to write them."""
    for node in graph.node:
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if not isinstance(name, str) or not (name.isprintable() or _encodes(name)):
                raise ModelError(f"{where}: damaged (the name of a node is no text); copy or export it again")
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                _check_names(inner, where)


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every initializer of more than 1 KiB turned into a graph input of its type: all that checks of
    the structure need, at no memory.
    """
    light = without_initializers(proto)
    listed = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if not _heavy(tensor):
            light.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


def _heavy(tensor: onnx.TensorProto) -> bool:
    return is_apart(tensor) or prod(tensor.dims) > 1024 or len(tensor.raw_data) > 1024


def one_line(reason: Exception) -> str:
    """An exception's text in one short line."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 200 else text[:197] + "..."
