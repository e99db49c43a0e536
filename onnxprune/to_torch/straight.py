"""Where quantised values are floats, so that gradients pass, and where ops want the integers (see quantize.py)."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from onnxprune.to_torch.operands import TRAINABLE, dtype_of
from onnxprune.to_torch.ops import (
    cast,
    integer,
    microsoft_attention,
    microsoft_integer,
    microsoft_quantized,
    quantize,
)

Grid = torch.dtype | fx.Node
"""The integer type of a value: itself, or that of the zero point which this node gives."""

_MOVING = {
    "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "GlobalMaxPool",
    "Identity", "Max", "MaxPool", "Min", "NhwcMaxPool", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""Ops that pick among their operands' values, and so give the same for floats."""

_ZERO_POINT: dict[Callable[..., Any], int] = {
    quantize.quantize_linear: 2,
    integer.qlinear_conv: 7,
    integer.qlinear_matmul: 7,
    microsoft_integer.qlinear_conv_last: 7,
    microsoft_integer.qgemm: 8,
    microsoft_quantized.qlinear_add: 7,
    microsoft_quantized.qlinear_mul: 7,
    microsoft_quantized.qlinear_average_pool: 4,
    microsoft_quantized.qlinear_concat: 1,
    microsoft_quantized.qlinear_global_average_pool: 4,
    microsoft_quantized.qlinear_leaky_relu: 4,
    microsoft_quantized.qlinear_sigmoid: 4,
    microsoft_quantized.qlinear_softmax: 4,
    microsoft_quantized.qlinear_where: 8,
}
"""The operand that is the result's zero point; uint8 where it is left out."""
_INT32 = (integer.conv_integer, integer.matmul_integer)
_READING = {
    quantize.dequantize_linear,
    microsoft_attention.qattention,
    microsoft_integer.matmul_integer_to_float,
    operator.getitem,
}


def settle(graph: fx.Graph) -> None:
    """Integers for the graph's outputs and for every op that does more than move values."""
    carried: dict[fx.Node, Grid] = {}
    for node in list(graph.nodes):
        found = [source for source in node.all_input_nodes if source in carried]
        if (grid := _made(node, bool(found))) is not None:
            carried[node] = grid
        elif found and _moves(node):
            carried[node] = carried[found[0]]
        elif not _reads(node):
            for source in found:
                with graph.inserting_before(node):
                    whole = graph.call_function(as_integers, (source, carried[source]))
                node.replace_input_with(source, whole)


def as_integers(x: Tensor, grid: torch.dtype | Tensor) -> Tensor:
    return x.to(grid.dtype if isinstance(grid, Tensor) else grid)


def _made(node: fx.Node, from_carried: bool) -> Grid | None:
    """The grid of what the node quantises."""
    if node.target is quantize.dynamic_quantize_linear:
        return torch.uint8
    if node.target in _INT32:
        return torch.int32 if from_carried else None
    if node.target not in _ZERO_POINT or not (from_carried or node.target is quantize.quantize_linear):
        return None
    if node.target is microsoft_integer.qgemm and len(node.args) < 8:
        return None
    if code := node.kwargs.get("output_dtype"):
        assert isinstance(code, int)
        return dtype_of(code)
    place = _ZERO_POINT[node.target]
    given = node.args[place] if place < len(node.args) else None
    return given if isinstance(given, fx.Node) else torch.uint8


def _moves(node: fx.Node) -> bool:
    op, _ = node.meta.get("onnx", ("", ""))
    if op in ("Resize", "Upsample"):
        return str(node.kwargs.get("mode", "nearest")) == "nearest"
    if node.target is operator.getitem:
        parent, place = node.args
        assert isinstance(parent, fx.Node)
        return str(place) == "0" or parent.meta["onnx"][0] == "Split"
    return op in _MOVING


def _reads(node: fx.Node) -> bool:
    if node.target is cast.cast:
        return dtype_of(int(str(node.kwargs["to"]))) in TRAINABLE
    return node.target in _READING or node.target in _ZERO_POINT or node.target in _INT32
