"""The one door to ONNX files: load, check, save.

The graph itself is an onnx-graphsurgeon graph; what that library drops on a round trip is kept beside it.
"""

import heapq
import json
import logging
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxprune.errors import ModelError, OutputError

log = logging.getLogger(__name__)
logging.getLogger("onnx_graphsurgeon").setLevel(logging.ERROR)

OLDEST_OPSET = 7
"""onnxruntime runs models from this opset on."""
TWO_GIB = 2**31 - 2**20
"""Protobuf's limit for one file, with room for the graph; beyond it weights go to a file beside the model."""


@dataclass
class Model:
    """A graph and the facts of its file that the graph cannot hold."""

    graph: gs.Graph
    path: Path | None = None
    header: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    """The file without its graph and functions: IR version, producer, metadata, ..."""
    input_initializers: set[str] = field(default_factory=set)
    """Initializers that are listed as graph inputs too, as IR version 3 demands."""
    graph_notes: onnx.GraphProto = field(default_factory=onnx.GraphProto)
    """doc_string, metadata and quantisation annotations of the graph."""
    node_notes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """doc_string and metadata of nodes, by the name of their first output."""

    @property
    def where(self) -> str:
        """How messages call the model."""
        return str(self.path) if self.path else "the model"


def load(source: str | Path | onnx.ModelProto | Model) -> Model:
    """The model of a file or a ModelProto, checked; a Model is copied.

    Raises ModelError: no such file, not ONNX, truncated, refused by the onnx checker, external data outside the
    model's folder, an opset older than 7.
    """
    if isinstance(source, Model):
        return load_proto(to_proto(source), source.path)
    if isinstance(source, onnx.ModelProto):
        return load_proto(copy_of(source), None)
    path = Path(source)
    return load_proto(read(path), path)


def read(path: Path) -> onnx.ModelProto:
    """The ModelProto of a file, external data included. Raises ModelError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the path of an ONNX model") from None
    except OSError as reason:
        raise ModelError(
            f"{path}: cannot be read ({reason.strerror}); give the path of an ONNX model"
        ) from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one; export or copy it again") from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path}: holds no ONNX graph; give a file that an exporter wrote")
    for tensor in _tensors(proto.graph):
        if uses_external_data(tensor):
            _load_external(tensor, path)
    return proto


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += _tensors(inner)
    return found


def _load_external(tensor: onnx.TensorProto, path: Path) -> None:
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


def load_proto(proto: onnx.ModelProto, path: Path | None) -> Model:
    """A Model that takes over `proto`. Raises ModelError as `load`."""
    where = str(path) if path else "the model"
    try:
        return _taken_over(proto, path, where)
    except UnicodeDecodeError:
        raise ModelError(f"{where}: damaged (a name is no text); copy or export it again") from None


def _taken_over(proto: onnx.ModelProto, path: Path | None, where: str) -> Model:
    _check(proto, where)
    header = onnx.ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if proto.HasField(name):
            setattr(header, name, getattr(proto, name))
    header.metadata_props.extend(proto.metadata_props)
    header.opset_import.extend(proto.opset_import)
    constants = {tensor.name for tensor in proto.graph.initializer}
    graph_notes = onnx.GraphProto(doc_string=proto.graph.doc_string)
    graph_notes.metadata_props.extend(proto.graph.metadata_props)
    graph_notes.quantization_annotation.extend(proto.graph.quantization_annotation)
    notes = {
        node.output[0]: onnx.NodeProto(doc_string=node.doc_string, metadata_props=node.metadata_props)
        for node in proto.graph.node
        if node.output and (node.doc_string or node.metadata_props)
    }
    both = {value.name for value in proto.graph.input} & constants
    try:
        graph = gs.import_onnx(proto)
    except Exception as reason:  # the library raises what its Python code trips over in damaged files
        raise ModelError(
            f"{where}: cannot be taken apart ({_line(reason)}); check it with onnx.checker"
        ) from None
    if graph.opset < OLDEST_OPSET:
        raise ModelError(
            f"{where}: opset {graph.opset} is older than {OLDEST_OPSET}; raise it with onnx.version_converter"
        )
    graph.inputs = [tensor for tensor in graph.inputs if not isinstance(tensor, gs.Constant)]
    _name_nodes(graph)
    return Model(graph, path, header, both, graph_notes, notes)


def _check(proto: onnx.ModelProto, where: str) -> None:
    for tensor in _tensors(proto.graph):
        if any(size < 0 for size in tensor.dims):
            raise ModelError(f"{where}: weight '{tensor.name}' has a negative size; export the model again")
        if tensor.HasField("raw_data") and tensor.data_type and len(tensor.raw_data) != _bytes(tensor):
            raise ModelError(
                f"{where}: weight '{tensor.name}' is declared as {list(tensor.dims)}, {_bytes(tensor)} bytes, "
                f"but holds {len(tensor.raw_data)}; copy or export the model again"
            )
        if not tensor.HasField("raw_data") and prod(tensor.dims) > proto.ByteSize():
            raise ModelError(
                f"{where}: weight '{tensor.name}' is declared larger than the file; export the model again"
            )
    try:
        onnx.checker.check_model(without_weights(proto))
    except onnx.checker.ValidationError as reason:
        raise ModelError(f"{where}: refused by the onnx checker: {_line(reason)}") from None
    except (UnicodeDecodeError, EncodeError, ValueError) as reason:
        raise ModelError(f"{where}: damaged ({_line(reason)}); copy or export it again") from None


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every initializer of more than 1 KiB turned into a graph input of its type: all that checks of
    the structure need, at no memory.
    """
    light = onnx.ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            _copy_field(light, descriptor.name, value)
    listed = {value.name for value in proto.graph.input}
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            _copy_field(light.graph, descriptor.name, value)
    for tensor in proto.graph.initializer:
        if _heavy(tensor):
            if tensor.name not in listed:
                light.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                )
        else:
            light.graph.initializer.append(tensor)
    return light


def _heavy(tensor: onnx.TensorProto) -> bool:
    return len(tensor.raw_data) > 1024 or prod(tensor.dims) > 1024


def _copy_field(target: Any, name: str, value: Any) -> None:
    if hasattr(value, "extend"):
        getattr(target, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)


def _line(reason: Exception) -> str:
    """An exception's text in one short line."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _name_nodes(graph: gs.Graph) -> None:
    """Every node gets a name of its own: reasons and plans speak of nodes by name."""
    taken = Counter(node.name for node in graph.nodes)
    for node in graph.nodes:
        if not node.name or taken[node.name] > 1:
            stem = f"{node.op}_{node.outputs[0].name}" if node.outputs else node.op
            while taken[stem]:
                stem += "_"
            taken[node.name] -= 1
            node.name = stem
            taken[stem] += 1


def tidy(graph: gs.Graph) -> None:
    """Sorts the nodes by dependence, keeping their order where it is free, and drops those that nothing reads.

    In place of the library's own two passes, which recurse per node and per local function.
    """
    wanted = {tensor.name for tensor in graph.outputs}
    reads = {id(node): _reads(node) for node in graph.nodes}
    maker = {tensor.name: node for node in graph.nodes for tensor in node.outputs if tensor.name}
    alive: set[int] = set()
    waiting = [maker[name] for name in wanted if name in maker]
    while waiting:
        node = waiting.pop()
        if id(node) not in alive:
            alive.add(id(node))
            waiting += [maker[name] for name in reads[id(node)] if name in maker]
    for node in graph.nodes:
        if id(node) not in alive:
            node.inputs.clear()
    graph.nodes = _sorted([node for node in graph.nodes if id(node) in alive], reads, maker)


def _reads(node: gs.Node) -> set[str]:
    """Names of all tensors a node reads, by its subgraphs as well."""
    names = {tensor.name for tensor in node.inputs if tensor.name}
    for graph in node.attrs.values():
        if isinstance(graph, gs.Graph):
            for inner in graph.nodes:
                names |= _reads(inner)
            names |= {tensor.name for tensor in graph.outputs}
    return names


def _sorted(nodes: list[gs.Node], reads: dict[int, set[str]], maker: dict[str, gs.Node]) -> list[gs.Node]:
    order = {id(node): number for number, node in enumerate(nodes)}
    missing: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        makers = {
            order[id(maker[name])] for name in reads[id(node)] if name in maker and id(maker[name]) in order
        }
        makers.discard(number)
        missing[number] = len(makers)
        for made_by in makers:
            readers.setdefault(made_by, []).append(number)
    ready = [number for number, count in missing.items() if not count]
    heapq.heapify(ready)
    result = []
    while ready:
        number = heapq.heappop(ready)
        result.append(nodes[number])
        for reader in readers.get(number, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(result) < len(nodes):
        raise ModelError("the graph has a cycle; export the model again")
    return result


def array(tensor: gs.Constant) -> np.ndarray:
    """The values of a constant; unlike `tensor.values` it does not keep a second copy in memory."""
    values = tensor._values
    return np.asarray(values.load() if isinstance(values, LazyValues) else values)


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as it would be written: the graph, and what the graph library does not carry."""
    proto: onnx.ModelProto = gs.export_onnx(model.graph, do_type_check=False)
    opsets = list(proto.opset_import)
    for name in _FILE_FACTS:
        proto.ClearField(name)
    proto.MergeFrom(model.header)
    used = {entry.domain for entry in model.header.opset_import}
    proto.opset_import.extend(entry for entry in opsets if entry.domain not in used)
    proto.graph.MergeFrom(model.graph_notes)
    for node in proto.graph.node:
        if node.output and node.output[0] in model.node_notes:
            node.MergeFrom(model.node_notes[node.output[0]])
    for tensor in proto.graph.initializer:
        if model.header.ir_version < 4 or tensor.name in model.input_initializers:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return proto


_FILE_FACTS = (
    "ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props",
    "opset_import",
)  # fmt: skip


def save(model: Model | onnx.ModelProto, path: str | Path, *, force: bool = True) -> int:
    """Writes the model and returns its bytes on disk, external data included.

    Written beside the target first and renamed, so that an interrupted run leaves the old file or the new one.
    Raises OutputError.
    """
    proto = to_proto(model) if isinstance(model, Model) else model
    path = writable(path, force=force)
    folder = path.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{path.name}.") as scratch:
            draft = Path(scratch) / path.name
            if proto.ByteSize() < TWO_GIB:
                draft.write_bytes(proto.SerializeToString())
            else:
                if proto is model:  # onnx strips the weights of what it saves this way
                    proto = copy_of(proto)
                onnx.save_model(proto, draft, save_as_external_data=True, location=f"{path.name}.data")
            written = sorted(Path(scratch).iterdir(), key=lambda file: file == draft)  # the model goes last
            size = sum(file.stat().st_size for file in written)
            for file in written:
                file.replace(folder / file.name)
    except OSError as reason:
        raise OutputError(
            f"{path}: cannot be written ({reason.strerror}); free space or choose another place with -o"
        ) from None
    return size


def write_text(path: str | Path, document: Any, *, force: bool = True) -> None:
    """Writes a JSON document beside the target and renames it. Raises OutputError."""
    path = writable(path, force=force)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as reason:
        draft.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({reason.strerror}); free space or choose another place"
        ) from None


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing with `proto`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def writable(path: str | Path, *, force: bool = True) -> Path:
    """The path, if a file can be made there. Raises OutputError before any work is done for nothing."""
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist; make it, or choose another place with -o"
        )
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the path of a file with -o")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is not writable; choose another place with -o")
    if path.exists() and not force:
        raise OutputError(
            f"{path}: exists already; choose another place with -o, or overwrite it with --force"
        )
    return path
