"""Puts a graph into the form that rules speak of; its function stays the same.

Weights become plain initializers with one reader each, shape arithmetic that is the same for every input becomes
constants, what nothing reads goes away. Preparing twice changes nothing.
"""

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.fold import evaluate
from onnxprune.links import Shape
from onnxprune.model import Model
from onnxprune.ops import Node, Value
from onnxprune.ops.pad import expansion_of
from onnxprune.ops.recurrent import leave_out_zero_states
from onnxprune.ops.reshape import target_of
from onnxprune.prepare.copies import take_out_copies
from onnxprune.prepare.dequantised import one_node_each
from onnxprune.prepare.lower import lower_conditions, lower_counts, lower_permutations
from onnxprune.prepare.sequences import unroll
from onnxprune.prepare.unpack import unpack_views
from onnxprune.prepare.views import shorten_views
from onnxprune.scopes import graphs, one_name_each
from onnxprune.shapes import Shapes, infer
from onnxprune.shapes.binding import SMALL
from onnxprune.tidy import tidy

COPIED = 4096
"""Shared initializers of at most this many entries are copied per reader: exporters merge equal biases of unrelated
layers. Larger ones are tied on purpose."""
TARGETS = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3, "CenterCropPad": 1, "AffineGrid": 1}
"""Ops that are told a shape, and by which operand."""


def prepare(model: Model) -> Shapes:
    """Prepares the model's graph in place; returns its sizes. Raises ModelError where shapes contradict each other."""
    graph = model.graph
    one_name_each(graph)
    for scope in graphs(graph):
        _constants_to_initializers(scope)
    _drop_unread_statistics(graph)
    tidy(graph)
    take_out_copies(graph)
    fold_weights(graph)
    lower_conditions(graph)
    shapes = infer(graph)
    _fold_fixed(graph, shapes)
    leave_out_zero_states(graph)
    if unroll(graph, shapes):
        tidy(graph)
        take_out_copies(graph)
        shapes = infer(graph)
        _fold_fixed(graph, shapes)
    lower_counts(graph, shapes)
    _write_targets(graph, shapes)
    one_node_each(graph, shapes, COPIED)
    _one_reader_each(graph, shapes)
    tidy(graph)
    for rewrite_views in (lower_permutations, unpack_views, shorten_views):
        if rewrite_views(graph, shapes):
            tidy(graph)
            take_out_copies(graph)
    return shapes


def _replace(node: gs.Node, values: list[np.ndarray]) -> None:
    for tensor, value in zip(list(node.outputs), values, strict=False):
        if tensor.name:
            tensor.inputs.clear()
            tensor.to_constant(np.ascontiguousarray(value) if value.ndim else value)
    node.inputs.clear()  # else it stays a reader of them


def _drop_unread_statistics(graph: gs.Graph) -> None:
    """Files of opsets before 14 list BatchNormalization's training outputs; onnxruntime computes none of them."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op == "BatchNormalization" and not node.attrs.get("training_mode", 0):
            while len(node.outputs) > 1 and not (node.outputs[-1].outputs or id(node.outputs[-1]) in outputs):
                node.outputs.pop()


def _is_output(graph: gs.Graph, node: gs.Node) -> bool:
    return any(out is tensor for out in node.outputs for tensor in graph.outputs)


def _constants_to_initializers(graph: gs.Graph) -> None:
    for node in graph.nodes:
        if node.op != "Constant" or _is_output(graph, node):
            continue
        name, value = next(iter(node.attrs.items()))
        tensor = node.outputs[0]
        if name == "value":
            tensor.inputs.clear()
            tensor.to_constant(value._values)  # the lazy form: large weights stay unread
        elif name in ("value_float", "value_floats"):
            _replace(node, [np.asarray(value, dtype=np.float32)])
        elif name in ("value_int", "value_ints"):
            _replace(node, [np.asarray(value, dtype=np.int64)])
    graph.nodes = [node for node in graph.nodes if node.op != "Constant" or node.outputs]


def fold_weights(graph: gs.Graph) -> None:
    """Evaluates nodes that only see constants, such as a Transpose or a standardisation of a weight."""
    for node in graph.nodes:
        operands = [tensor for tensor in node.inputs if tensor.name]
        if not operands or not all(isinstance(tensor, gs.Constant) for tensor in operands):
            continue
        if _is_output(graph, node) or any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            continue
        limit = max(SMALL, 2 * sum(prod(tensor.shape) for tensor in operands))
        values = evaluate(node, [t.values if t.name else None for t in node.inputs], graph.opset, limit)
        if values is not None:
            _replace(node, values)
    graph.nodes = [node for node in graph.nodes if node.outputs]


def _fold_fixed(graph: gs.Graph, shapes: Shapes) -> None:
    """Values of the shape arithmetic that are the same at both bindings become constants."""
    for node in graph.nodes:
        fixed = [shapes.fixed.get(tensor.name) for tensor in node.outputs]
        if not _is_output(graph, node) and all(value is not None for value in fixed):
            _replace(node, [value for value in fixed if value is not None])
    graph.nodes = [node for node in graph.nodes if node.outputs]


def _write_targets(graph: gs.Graph, shapes: Shapes) -> None:
    """Gives ops that are told a shape one in which every static size is a number, not something computed on the way."""
    for raw in list(graph.nodes):
        given = raw.inputs[TARGETS[raw.op] :][:1] if raw.op in TARGETS else []
        if not given or not given[0].name or isinstance(given[0], gs.Constant):
            continue
        inputs, outputs = (
            tuple(Value(t.name, shapes.sizes.get(t.name), t) for t in side)
            for side in (raw.inputs, raw.outputs)
        )
        node = Node(raw.op, raw.name, graph.opset, inputs, outputs, raw, graph)
        shape = outputs[0].shape
        if shape is None or inputs[0].shape is None or 0 in shape or all(size is None for size in shape):
            continue
        node.set_shape(TARGETS[raw.op], _target(node, shape))


def _target(node: Node, shape: Shape) -> Sequence[int | None]:
    match node.op:
        case "Reshape":
            return target_of(node, shape)
        case "Expand":
            return expansion_of(node, shape)
        case "Resize" | "CenterCropPad":
            return [shape[axis] for axis in node.attr("axes", range(len(shape)))]
        case "AffineGrid":  # of the image's channels it knows nothing
            return [shape[0], 1, *shape[1:-1]]
    return shape


def _one_reader_each(graph: gs.Graph, shapes: Shapes) -> None:
    top_level = {id(node) for node in graph.nodes}
    tensors = graph.tensors()
    taken = set(tensors)
    for tensor in list(tensors.values()):
        if not isinstance(tensor, gs.Constant) or not 1 < prod(tensor.shape) <= COPIED:
            continue
        readers = {id(node): node for node in tensor.outputs}
        slots = [(node, k) for node in readers.values() for k, t in enumerate(node.inputs) if t is tensor]
        numbers = itertools.count(1)
        for node, position in slots[1:]:
            if id(node) not in top_level:  # a subgraph reads it by name
                continue
            name = next(new for n in numbers if (new := f"{tensor.name}__{n}") not in taken)
            taken.add(name)
            copy = gs.Constant(name, tensor.values)
            node.inputs[position] = copy
            shapes.sizes[copy.name] = tuple((size, size) for size in tensor.shape)
