"""Evaluates nodes whose inputs are known: shape arithmetic and weight-only subgraphs.

The frequent ops of shape arithmetic are a table of numpy calls; all others go to onnx's reference evaluator.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

log = logging.getLogger(__name__)

NEVER = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    "If", "Loop", "Scan", "Dropout", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear",
}  # fmt: skip
"""Random, control flow, or a quantised weight that must stay in its small form."""

Array = np.ndarray[Any, Any]


def evaluate(node: gs.Node, inputs: Sequence[Array | None], opset: int, limit: int) -> list[Array] | None:
    """The outputs of `node` for these inputs (None: absent), or None: it cannot tell, or exceeds `limit` entries."""
    if node.op in NEVER or node.domain not in (None, "", "ai.onnx"):
        return None
    try:
        if _result_size(node, inputs, opset) > limit:
            return None
        with np.errstate(all="ignore"):
            results = _compute(node, inputs, opset)
    except Exception as reason:  # a node that cannot be evaluated is simply not folded
        log.debug("%s '%s' is not folded: %s", node.op, node.name, reason)
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.size <= limit for array in arrays) else None


def _compute(node: gs.Node, inputs: Sequence[Array | None], opset: int) -> list[Any]:
    known = TABLE.get(node.op)
    return [known(node, inputs)] if known else _reference(node, inputs, opset)


def _result_size(node: gs.Node, inputs: Sequence[Array | None], opset: int) -> float:
    """How many entries the op would make, known before it makes them: inputs of a few entries can ask for terabytes."""
    given = [value for value in inputs if value is not None]
    match node.op:
        case "ConstantOfShape":
            return float(prod(given[0].tolist()))
        case "Expand":
            return _broadcast_size(given[0].shape, given[1].tolist())
        case "Gather":
            return float(given[0].size // max(given[0].shape[node.attrs.get("axis", 0)], 1) * given[1].size)
        case "Range":
            start, stop, step = (float(value.reshape(())) for value in given)
            return float(abs((stop - start) / step)) if step else math.inf
        case "Tile":
            return float(given[0].size * prod(given[1].tolist()))
        case op if op in BROADCASTING:
            return _broadcast_size(*(value.shape for value in given))
        case op if op in TABLE:
            return sum(value.size for value in given)
    return _inferred_size(node, inputs, opset)


def _broadcast_size(*shapes: Sequence[int]) -> int:
    return prod(max(sizes) for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1))


def _inferred_size(node: gs.Node, inputs: Sequence[Array | None], opset: int) -> float:
    """By onnx's shape inference; infinite where it cannot tell, unless entries are only picked out."""
    model = _one_node(node, inputs, opset, fixed=1024)
    sizes = []
    for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            sizes.append(prod(axis.dim_value for axis in tensor.shape.dim))
        elif node.op not in PICKING:
            return math.inf
    return max(sizes, default=0)


PICKING = {"Compress", "NonZero", "Unique"}
"""Ops whose result depends on the data and is bounded by it."""


def _one_node(node: gs.Node, inputs: Sequence[Array | None], opset: int, fixed: int = 0) -> onnx.ModelProto:
    """A model of this node alone with inputs `i0`, ...; those of at most `fixed` entries are given their value."""
    proto = OnnxExporter.export_node(node)
    del proto.input[:]
    proto.input.extend("" if value is None else f"i{k}" for k, value in enumerate(inputs))
    values = {f"i{k}": value for k, value in enumerate(inputs) if value is not None}
    types = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in values.items()
    ]
    small = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in values.items()
        if value.size <= fixed
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "fold", types, outputs, small)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _reference(node: gs.Node, inputs: Sequence[Array | None], opset: int) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    feed = {f"i{k}": value for k, value in enumerate(inputs) if value is not None}
    return list(ReferenceEvaluator(_one_node(node, inputs, opset)).run(None, feed))


Call = Callable[[gs.Node, Sequence[Any]], Any]


def _ints(node: gs.Node, inputs: Sequence[Any], attribute: str, number: int) -> tuple[int, ...] | None:
    given = node.attrs.get(attribute, inputs[number] if len(inputs) > number else None)
    return None if given is None else tuple(int(v) for v in np.atleast_1d(given))


def _cast(node: gs.Node, inputs: Sequence[Any]) -> Array:
    to = node.attrs["to"]
    return np.asarray(inputs[0]).astype(
        onnx.helper.tensor_dtype_to_np_dtype(to) if isinstance(to, int) else to
    )


def _slice(node: gs.Node, inputs: Sequence[Any]) -> Array:
    starts, ends = _ints(node, inputs, "starts", 1) or (), _ints(node, inputs, "ends", 2) or ()
    over = _ints(node, inputs, "axes", 3) or tuple(range(len(starts)))
    steps = _ints(node, inputs, "steps", 4) or (1,) * len(starts)
    index = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(over, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -(2**30) else end, step)
    return np.asarray(inputs[0][tuple(index)])


def _divide(node: gs.Node, inputs: Sequence[Any]) -> Array:
    a, b = inputs
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(np.divide(a, b))
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), dtype=a.dtype)  # towards zero


def _reshape(node: gs.Node, inputs: Sequence[Any]) -> Array:
    target = inputs[1].tolist()
    if not node.attrs.get("allowzero", 0):
        target = [inputs[0].shape[k] if size == 0 else size for k, size in enumerate(target)]
    return np.asarray(inputs[0].reshape(target))


def _unsqueeze(node: gs.Node, inputs: Sequence[Any]) -> Array:
    return np.asarray(np.expand_dims(inputs[0], _ints(node, inputs, "axes", 1) or ()))


def _constant_of_shape(node: gs.Node, inputs: Sequence[Any]) -> Array:
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value.values)
    return np.full(inputs[0].tolist(), fill.reshape(-1)[0], dtype=fill.dtype)


def _product(node: gs.Node, inputs: Sequence[Any]) -> Array:
    over = _ints(node, inputs, "axes", 1) or None
    if over is None and node.attrs.get("noop_with_empty_axes", 0):
        return np.asarray(inputs[0])
    return np.asarray(
        np.prod(inputs[0], axis=over, keepdims=bool(node.attrs.get("keepdims", 1))), inputs[0].dtype
    )


TABLE: dict[str, Call] = {
    "Add": lambda _, i: np.add(i[0], i[1]),
    "And": lambda _, i: np.logical_and(i[0], i[1]),
    "Cast": _cast,
    "Ceil": lambda _, i: np.ceil(i[0]),
    "Concat": lambda n, i: np.concatenate(i, axis=n.attrs["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": lambda _, i: np.equal(i[0], i[1]),
    "Expand": lambda _, i: i[0] * np.ones(i[1].tolist(), dtype=i[0].dtype),
    "Floor": lambda _, i: np.floor(i[0]),
    "Gather": lambda n, i: np.take(i[0], i[1].astype(np.int64), axis=n.attrs.get("axis", 0)),
    "Greater": lambda _, i: np.greater(i[0], i[1]),
    "Identity": lambda _, i: i[0],
    "Less": lambda _, i: np.less(i[0], i[1]),
    "Max": lambda _, i: reduce(np.maximum, i),
    "Min": lambda _, i: reduce(np.minimum, i),
    "Mul": lambda _, i: np.multiply(i[0], i[1]),
    "Neg": lambda _, i: np.negative(i[0]),
    "Not": lambda _, i: np.logical_not(i[0]),
    "Range": lambda _, i: np.arange(i[0].item(), i[1].item(), i[2].item(), dtype=i[0].dtype),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": lambda _, i: np.sqrt(i[0]),
    "Squeeze": lambda n, i: np.squeeze(i[0], _ints(n, i, "axes", 1)),
    "Sub": lambda _, i: np.subtract(i[0], i[1]),
    "Transpose": lambda n, i: np.transpose(i[0], n.attrs.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": lambda _, i: np.where(i[0], i[1], i[2]),
}

BROADCASTING = {
    "Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Sub", "Where",
}  # fmt: skip
"""Ops of the table whose operands broadcast to one shape."""
