"""A graph with one choice of numbers for its dynamic sizes: the shapes and computed values that follow.

Shapes are inferred on a copy without weights, window by window.
"""

import logging
from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.shape_inference import infer_shapes
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx

from onnxprune.errors import ModelError
from onnxprune.fold import evaluate
from onnxprune.scopes import bodies, graphs, reads
from onnxprune.shapes.foreign import taught
from onnxprune.shapes.supposed import FEW, declare, suppose

log = logging.getLogger(__name__)

BATCH = (24, 36)
"""Sizes of a dynamic first axis at the two bindings; so divisible that parts of a batch differ as well."""
OTHER = (224, 320)
"""Sizes of every other dynamic axis: images pass through five halvings, sequences are long enough."""
TOKENS = (20, 28)
"""The same for axes of whole numbers, such as tokens: tables of positions end soon, and a slice that is cut off by the
end of a table is of one size at both bindings though it is not static."""
WINDOW = 256
"""Nodes that are inferred at once."""
SMALL = 1 << 16
"""Values of at most this many entries are followed through the shape arithmetic."""


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def bound(
    shape: Sequence[Any], which: int, batch_names: Collection[str] = (), token_names: Collection[Any] = ()
) -> list[int]:
    """A declared input shape with numbers for its dynamic sizes; the batch may have its name on any axis."""

    def chosen(axis: int, size: Any) -> int:
        if axis == 0 or size in batch_names:
            return BATCH[which]
        return (TOKENS if size in token_names else OTHER)[which]

    return [
        size if isinstance(size, int) and size >= 0 else chosen(axis, size) for axis, size in enumerate(shape)
    ]


class Source:
    """What both bindings see of the graph."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.constants: dict[str, np.ndarray] = {}
        """Those that reach the shape arithmetic."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.infos: dict[str, onnx.ValueInfoProto] = {}
        self._exported: dict[int, tuple[onnx.NodeProto, tuple[str, ...]]] = {}
        self._tensors: dict[str, onnx.TensorProto] = {}
        for body in list(graphs(graph))[1:]:
            held = [tensor for tensor in body.tensors().values() if isinstance(tensor, gs.Constant)]
            self.shapes.update({tensor.name: tuple(tensor.shape) for tensor in held})
        for tensor in graph.tensors().values():
            if isinstance(tensor, gs.Constant):
                self.shapes[tensor.name] = tuple(tensor.shape)
                if prod(tensor.shape) <= SMALL and not _is_weight(tensor):
                    self.constants[tensor.name] = tensor.values
                else:
                    self.infos[tensor.name] = onnx.helper.make_tensor_value_info(
                        tensor.name, _element_type(tensor), tensor.shape
                    )

    def node(self, raw: gs.Node) -> tuple[onnx.NodeProto, tuple[str, ...]]:
        """A node as inference reads it, and the names of all that it reads."""
        found = self._exported.get(id(raw))
        if found is None:
            proto = _telling(OnnxExporter.export_node(raw))
            found = proto, tuple(reads(proto))
            if not bodies(raw) and (raw.op != "Concat" or self.graph.opset >= 11):  # others are told sizes
                self._exported[id(raw)] = found
        return found

    def tensor(self, name: str) -> onnx.TensorProto:
        """A constant of the shape arithmetic."""
        if name not in self._tensors:
            self._tensors[name] = _tensor(self.constants[name], name)
        return self._tensors[name]


class Binding:
    """The graph with one choice of numbers for its dynamic sizes; `twin` is the other one, of which all is known."""

    def __init__(self, source: Source, which: int, twin: "Binding | None" = None) -> None:
        self.source, self.which, self.twin = source, which, twin
        graph = self.graph = source.graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}
        self.values: dict[str, np.ndarray] = {}
        self.certain: frozenset[str] = frozenset()
        """Names of the values that hang on nothing supposed."""
        self.supposed: set[str] = set()
        self.batched = False
        first = [tensor.shape[0] for tensor in graph.inputs if tensor.shape]
        self.batch_names = {name for name in first if isinstance(name, str)}
        whole = [tensor for tensor in graph.inputs if tensor.shape and _counts(tensor)]
        self.token_names = {size for tensor in whole for size in tensor.shape if isinstance(size, str)}
        self.infos = {tensor.name: self._input(tensor) for tensor in graph.inputs}
        """What inference is told of values that nodes read."""
        self.infos |= source.infos
        self.shapes |= source.shapes
        self.known = dict(source.constants)
        """These, and what was computed."""

    def _input(self, tensor: gs.Variable) -> onnx.ValueInfoProto:
        if tensor.shape is None or tensor.type != "tensor_type":
            info: onnx.ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
            return info
        tokens = self.token_names | ({None, ""} if _counts(tensor) else set())
        shape = bound(tensor.shape, self.which, self.batch_names, tokens)
        if shape and not isinstance(tensor.shape[0], int):
            self.batched = True
        self.shapes[tensor.name] = tuple(shape)
        return onnx.helper.make_tensor_value_info(tensor.name, dtype_to_onnx(tensor.dtype), shape)

    def run(self) -> None:
        """All that is certain, and then what follows if the data decide on a few entries wherever it is up to them."""
        self._sweep()
        self.certain = frozenset(self.values)
        shapes = dict(self.shapes)
        try:
            self._sweep(supposing=True)
        except ModelError as reason:
            log.debug("nothing is supposed: %s", reason)
            self.shapes = shapes
            self.supposed.clear()

    def _sweep(self, *, supposing: bool = False) -> None:
        """Window by window, in the order of the nodes, so that the cost grows with their number and no faster: infers,
        evaluates the shape arithmetic, and infers again while that tells something new.
        """
        for start in range(0, len(self.graph.nodes), WINDOW):
            nodes = self.graph.nodes[start : start + WINDOW]
            known_before = -1
            while len(self.values) + len(self.shapes) > known_before:
                known_before = len(self.values) + len(self.shapes)
                if self._all_known(nodes):
                    break
                if supposing:
                    self._suppose(nodes)
                self._infer(nodes)
                self._evaluate(nodes)

    def _all_known(self, nodes: Sequence[gs.Node]) -> bool:
        """Whether nothing is left to infer of these nodes and of those in their bodies."""
        return all(
            all(out.name in self.shapes for out in node.outputs if out.name)
            and all(self._all_known(body.nodes) for body in bodies(node))
            for node in nodes
        )

    def _suppose(self, nodes: Sequence[gs.Node]) -> None:
        for name, sizes in suppose(nodes, self.shapes, self.values, FEW[self.which]):
            if name in self.types:
                self.shapes[name] = sizes
                self.infos[name] = onnx.helper.make_tensor_value_info(name, self.types[name], sizes)
                self.supposed.add(name)

    def _count_from_the_front(self, node: onnx.NodeProto, raw: gs.Node) -> None:
        """Before opset 11 inference knows no Concat by an axis from the end; exporters write it all the same."""
        ranks = (len(self.shapes[tensor.name]) for tensor in raw.inputs if tensor.name in self.shapes)
        for attribute in node.attribute:
            if attribute.name == "axis" and attribute.i < 0:
                attribute.i += next(ranks, 0)

    def _infer(self, raws: Sequence[gs.Node]) -> None:
        nodes, read, made = [], dict[str, None](), set[str]()
        for raw in raws:
            outputs = [out.name for out in raw.outputs if out.name]
            if all(name in self.values for name in outputs):
                continue
            node, names = self.source.node(raw)
            nodes.append(node)
            read |= dict.fromkeys(name for name in names if name not in made)
            made.update(outputs)
            declare(node, self.supposed, self.infos)
            if raw.op == "Concat" and self.graph.opset < 11:
                self._count_from_the_front(node, raw)
        given = [self.infos[name] for name in read if name in self.infos and name not in self.values]
        initializers = [
            _tensor(self.values[name], name) if name in self.values else self.source.tensor(name)
            for name in read
            if name in self.known
        ]
        supposed = [self.infos[name] for name in made & self.supposed]
        graph = onnx.helper.make_graph(nodes, "shapes", given, [], initializers, value_info=supposed)
        domains = self.graph.import_domains or [onnx.helper.make_opsetid("", self.graph.opset)]
        functions = [OnnxExporter.export_function(function) for function in self.graph.functions]
        model = onnx.helper.make_model(graph, opset_imports=domains, functions=functions, ir_version=10)
        try:
            with taught(model):
                inferred = infer_shapes(model, data_prop=True).graph
        except onnx.shape_inference.InferenceError as reason:
            raise ModelError(
                f"the shapes of the model contradict each other: {' '.join(str(reason).split())}"
            ) from None
        waiting = [inferred]
        while waiting:
            graph = waiting.pop()
            waiting += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
            for info in (*graph.value_info, *graph.output):
                self._take(info)

    def _take(self, info: onnx.ValueInfoProto) -> None:
        self.infos[info.name] = info
        if info.type.tensor_type.elem_type:
            self.types[info.name] = info.type.tensor_type.elem_type
        axes = info.type.tensor_type.shape.dim
        sizes = tuple(axis.dim_value for axis in axes if axis.HasField("dim_value"))
        if len(sizes) == len(axes) and (sizes or info.type.tensor_type.HasField("shape")):
            self.shapes[info.name] = sizes

    def _evaluate(self, nodes: Sequence[gs.Node]) -> None:
        for node in nodes:
            if node.outputs[0].name in self.values:
                continue
            if any(prod(self.shapes.get(out.name, ())) > SMALL for out in node.outputs):
                continue
            results = self._one(node)
            for out, value in zip(node.outputs, results or (), strict=False):
                if out.name:
                    self.values[out.name] = self.known[out.name] = value
                    self.shapes[out.name] = value.shape

    def _one(self, node: gs.Node) -> Sequence[np.ndarray] | None:
        if node.op in ("Shape", "Size") and node.inputs[0].name in self.shapes:
            shape = np.asarray(self.shapes[node.inputs[0].name], dtype=np.int64)
            if node.op == "Size":
                return self._as_twin(node, [np.asarray(prod(shape.tolist()), dtype=np.int64)])
            return self._as_twin(node, [shape[node.attrs.get("start", 0) : node.attrs.get("end")]])
        names = [tensor.name for tensor in node.inputs]
        if not names or any(name and name not in self.known for name in names):
            return None
        given = [self.known.get(name) for name in names]
        if self.twin and all(self.twin.known.get(n) is value for n, value in zip(names, given, strict=True)):
            return self._twins(node)
        found = evaluate(node, given, self.graph.opset, SMALL)
        return found and self._as_twin(node, found)

    def _twins(self, node: gs.Node) -> Sequence[np.ndarray] | None:
        """What the twin found for this node."""
        found = self.twin.values if self.twin else {}
        names = [out.name for out in node.outputs if out.name]
        return [found.get(out.name, NONE) for out in node.outputs] if all(n in found for n in names) else None

    def _as_twin(self, node: gs.Node, results: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The twin's own arrays where these are equal, so that what follows from them need not be computed again."""
        theirs = self._twins(node) or results
        return [b if equal(a, b) else a for a, b in zip(results, theirs, strict=False)]


NONE = np.zeros(0)
"""In place of an output that nothing reads."""


def _counts(tensor: gs.Variable) -> bool:
    """Whether it holds whole numbers."""
    return tensor.dtype is not None and np.issubdtype(np.dtype(tensor.dtype), np.integer)


SILENT = {"GroupNormalization", "MeanVarianceNormalization"}
"""Ops whose output is like their first input, of which onnx 1.23 infers nothing."""


def _telling(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node that inference understands, of the same shape; what bodies declare is of another binding."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            del attribute.g.value_info[:]
            for out in attribute.g.output:
                out.type.tensor_type.ClearField("shape")
            for inner in attribute.g.node:
                _telling(inner)
    if node.op_type == "Scaler" and node.domain == "ai.onnx.ml":
        to = onnx.TensorProto.FLOAT
        return onnx.helper.make_node("Cast", node.input[:1], node.output[:1], node.name, to=to)
    if node.op_type in SILENT and not node.domain:
        return onnx.helper.make_node("Identity", node.input[:1], node.output[:1], node.name)
    return node


def _is_weight(tensor: gs.Constant) -> bool:
    """Tensors of rank 2 and more, but for indices, never reach the shape arithmetic."""
    return len(tensor.shape) > 1 and prod(tensor.shape) > 64 and tensor.dtype != np.int64


def _element_type(tensor: gs.Constant) -> int:
    return int(dtype_to_onnx(tensor.dtype))


def _tensor(value: np.ndarray, name: str = "") -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value), name)
