"""Reductions: exact over closed channels where they only add, frozen over the axis where they do not."""

from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import Node, axes

ADDING = ["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"]
"""A closed channel adds nothing, so the sum over the open ones is the slim model's."""
OTHER = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"]


@axes(*ADDING, *OTHER)
def reduction(node: Node) -> str:
    shape = node.shape()
    over = node.operand_ints("axes", 1)
    if not over:
        over = [] if node.attr("noop_with_empty_axes", 0) else list(range(len(shape)))
    over = [axis % len(shape) for axis in over]
    data = names(shape, whole=() if node.op in ADDING else over)
    return f"{data}, _ -> {_after(data, over, node.attr('keepdims', 1))}"


@axes("ArgMax", "ArgMin")
def argument(node: Node) -> str:
    over = [node.attr("axis", 0) % len(node.shape())]
    data = names(node.shape(), whole=over)
    return f"{data} -> {_after(data, over, node.attr('keepdims', 1))}"


@axes("TopK")
def top_k(node: Node) -> str:
    axis = node.attr("axis", -1) % len(node.shape())
    data = names(node.shape(), whole=[axis]).split()
    out = " ".join([*data[:axis], "K" if node.out_shape()[axis] != 1 else "1", *data[axis + 1 :]])
    return f"{' '.join(data)}, _ -> {', '.join([out] * len(node.outputs))}"


@axes("CumSum")
def cumulative_sum(node: Node) -> str:
    data = names(node.shape(), whole=[int(node.value(1).reshape(())) % len(node.shape())])
    return f"{data}, _ -> {data}"


def _after(data: str, over: list[int], keep: int) -> str:
    """The output's axes: reduced ones as `1`, or gone."""
    left = [
        "1" if axis in over else name for axis, name in enumerate(data.split()) if keep or axis not in over
    ]
    return " ".join(left)
