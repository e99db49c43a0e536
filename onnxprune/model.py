"""The one door to ONNX files: load, check, save.

The graph itself is an onnx-graphsurgeon graph; what that library drops on a round trip is kept beside it.
"""

import json
import logging
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx.external_data_helper import uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.apart import Apart, take_apart
from onnxprune.errors import ModelError, OutputError
from onnxprune.held import give_back, hold_large
from onnxprune.intake import check, one_line, read, tensors

log = logging.getLogger(__name__)
G_LOGGER.severity = G_LOGGER.ERROR  # it prints, and standard output belongs to results

OWN_DOMAIN = "onnxprune"
"""Of gates; whoever takes them out knows them by their calls."""
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


def load(source: str | Path | onnx.ModelProto | Apart | Model) -> Model:
    """The model of a file or a protobuf, checked; a Model is copied, the weights of an Apart are not.

    Raises ModelError: no such file, not ONNX, truncated, refused by the onnx checker, external data outside the
    model's folder, an opset older than 7.
    """
    path = None
    if isinstance(source, Model):
        parts, path = take_apart(to_proto(source)), source.path
    elif isinstance(source, onnx.ModelProto):
        parts = take_apart(source)
    elif isinstance(source, Apart):
        parts = source
    else:
        path = Path(source)
        parts = read(path)
    where = str(path) if path else "the model"
    try:
        return _taken_over(parts, path, where)
    except UnicodeDecodeError:
        raise ModelError(f"{where}: damaged (a name is no text); copy or export it again") from None


def _taken_over(parts: Apart, path: Path | None, where: str) -> Model:
    check(parts.light, where)
    proto = _without_calls(parts.light)
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
            f"{where}: cannot be taken apart ({one_line(reason)}); check it with onnx.checker"
        ) from None
    if graph.opset < OLDEST_OPSET:
        raise ModelError(
            f"{where}: opset {graph.opset} is older than {OLDEST_OPSET}; raise it with onnx.version_converter"
        )
    graph.inputs = [tensor for tensor in graph.inputs if not isinstance(tensor, gs.Constant)]
    give_back(graph, parts.weights)
    _name_nodes(graph)
    return Model(graph, path, header, both, graph_notes, notes)


def _without_calls(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The file's own functions written out where they are called, so that rules see what they do."""
    own = [(f.domain, f.name) for f in proto.functions if f.domain != OWN_DOMAIN]
    return onnx.inliner.inline_selected_functions(proto, own) if own else proto


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


def array(tensor: gs.Constant) -> np.ndarray:
    """The values of a constant; unlike `tensor.values` it does not keep a second copy in memory."""
    values = tensor._values
    return np.asarray(values.load() if isinstance(values, LazyValues) else values)


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as it would be written, as one protobuf; `export` copies no weights."""
    return export(model).whole()


def export(model: Model) -> Apart:
    """The model as it would be written: the graph, and what the graph library does not carry."""
    weights = hold_large(model.graph)
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
    return Apart(proto, weights)


_FILE_FACTS = (
    "ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props",
    "opset_import",
)  # fmt: skip


def save(model: Model | onnx.ModelProto | Apart, path: str | Path, *, force: bool = True) -> int:
    """Writes the model and returns its bytes on disk, external data included.

    Values that a protobuf holds and yet says to lie in a file (`to_torch.write_back` of a path) go there.
    Written beside the target first and renamed, so that an interrupted run leaves the old file or the new one.
    Raises OutputError.
    """
    path = writable(path, force=force)
    folder = path.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{path.name}.") as scratch:
            draft = Path(scratch) / path.name
            _write(export(model) if isinstance(model, Model) else model, draft)
            written = sorted(Path(scratch).iterdir(), key=lambda file: file == draft)  # the model goes last
            size = sum(file.stat().st_size for file in written)
            for file in written:
                file.replace(folder / file.name)
    except OSError as reason:
        raise OutputError(
            f"{path}: cannot be written ({reason.strerror}); free space or choose another place with -o"
        ) from None
    return size


def _write(model: onnx.ModelProto | Apart, path: Path) -> None:
    if isinstance(model, onnx.ModelProto) and any(map(uses_external_data, tensors(model.graph))):
        laid_out = onnx.ModelProto()
        laid_out.CopyFrom(model)
        onnx.save(laid_out, path)
        return
    if isinstance(model, onnx.ModelProto) and model.ByteSize() < TWO_GIB:
        path.write_bytes(model.SerializeToString())
        return
    parts = take_apart(model) if isinstance(model, onnx.ModelProto) else model
    if parts.size < TWO_GIB:
        with path.open("wb") as file:
            file.writelines(parts.pieces())
        return
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as file:
        file.writelines(parts.beside())
    path.write_bytes(parts.referring_to(beside.name).SerializeToString())


def write_text(path: str | Path, document: Any, *, force: bool = True) -> None:
    """Writes a JSON document beside the target and renames it. Raises OutputError."""
    write_bytes(path, (json.dumps(document, indent=1) + "\n").encode(), force=force)


def write_bytes(path: str | Path, content: bytes, *, force: bool = True, option: str = "-o") -> None:
    """Writes a file beside the target and renames it. Raises OutputError as `writable`."""
    path = writable(path, force=force, option=option)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as reason:
        draft.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({reason.strerror}); free space or choose another place"
        ) from None


def writable(path: str | Path, *, force: bool = True, option: str = "-o") -> Path:
    """The path, if a file can be made there; `option` is where the user says it.

    Raises OutputError before any work is done for nothing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist; make it, or choose another place with {option}"
        )
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the path of a file with {option}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"{path}: the folder {path.parent} is not writable; choose another place with {option}"
        )
    if path.exists() and not force:
        raise OutputError(
            f"{path}: exists already; choose another place with {option}, or overwrite it with --force"
        )
    return path
