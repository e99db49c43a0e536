"""Sizes and fixed values of everything in a graph, found by inferring it at two bindings of its dynamic sizes.

What is equal at both is static; what differs is dynamic. Shapes are inferred on a copy without weights.
"""

import logging
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.shape_inference import infer_shapes
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx

from onnxprune.errors import ModelError
from onnxprune.fold import evaluate
from onnxprune.foreign import taught
from onnxprune.scopes import graphs
from onnxprune.supposed import FEW, declare, suppose

log = logging.getLogger(__name__)

Pair = tuple[int, int]
"""An axis's size at the two bindings of the dynamic sizes; equal where it is static."""
Sizes = tuple[Pair, ...]

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


@dataclass
class Shapes:
    """What is known of a graph's values."""

    sizes: dict[str, Sizes] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    """Element types as ONNX counts them; a file need not tell those of its inner tensors."""
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    """Computed values that are the same at both bindings."""
    batch: int = 1
    """The batch at which the first sizes hold; costs are divided by it."""


def infer(graph: gs.Graph) -> Shapes:
    """Sizes and fixed values of all tensors of `graph`. Raises ModelError where they contradict each other."""
    first, second = _Binding(graph, 0), _Binding(graph, 1)
    first.run()
    dynamic = any(not isinstance(size, int) for t in graph.inputs for size in t.shape or ())
    if dynamic or first.supposed:
        second.run()
    else:
        second = first
    shapes = Shapes(batch=BATCH[0] if first.batched else 1, types=first.types)
    for name, shape in first.shapes.items():
        other = second.shapes.get(name)
        if other is not None and len(other) == len(shape):
            shapes.sizes[name] = tuple(zip(shape, other, strict=True))
    for name, value in first.values.items():
        certain = name in first.certain and name in second.certain
        if certain and value.shape == second.values[name].shape and _equal(value, second.values[name]):
            shapes.fixed[name] = value
    return shapes


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


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


class _Binding:
    """The graph with one choice of numbers for its dynamic sizes."""

    def __init__(self, graph: gs.Graph, which: int) -> None:
        self.graph, self.which = graph, which
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
        self.constants: dict[str, np.ndarray] = {}
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
                if all(out.name in self.shapes for node in nodes for out in node.outputs if out.name):
                    break
                if supposing:
                    self._suppose(nodes)
                self._infer(nodes)
                self._evaluate(nodes)

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
        nodes = []
        for raw in raws:
            if all(out.name in self.values for out in raw.outputs if out.name):
                continue
            nodes.append(_telling(OnnxExporter.export_node(raw)))
            declare(nodes[-1], self.supposed, self.infos)
            if raw.op == "Concat" and self.graph.opset < 11:
                self._count_from_the_front(nodes[-1], raw)
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in _reads(node) if name not in made)
        given = [self.infos[name] for name in read if name in self.infos and name not in self.values]
        fixed = {
            name: values[name] for values in (self.constants, self.values) for name in read if name in values
        }
        initializers = [_tensor(value, name) for name, value in fixed.items()]
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
        shape = info.type.tensor_type.shape
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in shape.dim):
            self.shapes[info.name] = tuple(d.dim_value for d in shape.dim)

    def _evaluate(self, nodes: Sequence[gs.Node]) -> None:
        known = ChainMap(self.values, self.constants)
        for node in nodes:
            if node.outputs[0].name in self.values:
                continue
            if any(prod(self.shapes.get(out.name, ())) > SMALL for out in node.outputs):
                continue
            results = self._one(node, known)
            for out, value in zip(node.outputs, results or (), strict=False):
                if out.name:
                    self.values[out.name] = value
                    self.shapes[out.name] = value.shape

    def _one(self, node: gs.Node, known: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
        if node.op in ("Shape", "Size") and node.inputs[0].name in self.shapes:
            shape = np.asarray(self.shapes[node.inputs[0].name], dtype=np.int64)
            if node.op == "Size":
                return [np.asarray(prod(shape.tolist()), dtype=np.int64)]
            return [shape[node.attrs.get("start", 0) : node.attrs.get("end")]]
        if not node.inputs or any(t.name and t.name not in known for t in node.inputs):
            return None
        return evaluate(node, [known.get(t.name) for t in node.inputs], self.graph.opset, SMALL)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of all that a node reads, by its bodies as well."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


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
    """Float tensors of rank 2 and more never reach the shape arithmetic."""
    return len(tensor.shape) > 1 and prod(tensor.shape) > 64


def _element_type(tensor: gs.Constant) -> int:
    return int(dtype_to_onnx(tensor.dtype))


def _tensor(value: np.ndarray, name: str = "") -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value), name)
