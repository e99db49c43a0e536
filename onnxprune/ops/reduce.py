"""Reductions and running sums: a closed channel adds nothing to a sum; mean, maximum and product have gated forms."""

from onnxprune.ops.elementwise import names
from onnxprune.ops.forms import Form, gated
from onnxprune.ops.registry import Node, axes

ADDING = ["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"]
OTHER = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"]


@axes(*ADDING, *OTHER)
def reduction(node: Node) -> str:
    data = names(node.shape())
    return f"{data}, _ -> {_after(data, _over(node), node.attr('keepdims', 1))}"


def _over(node: Node) -> list[int]:
    rank = len(node.shape())
    over = node.operand_ints("axes", 1)
    if not over:
        over = [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in over]


@gated("ReduceMean")
def mean_of_open_entries(form: Form) -> None:
    keep = bool(form.node.attr("keepdims", 1))
    form.result(form.mean(form.inputs[0], _over(form.node), keep=keep))


@gated("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
def extreme_of_open_entries(form: Form) -> None:
    neutral = {"ReduceProd": 1.0, "ReduceMin": form.highest}.get(form.node.op, form.lowest)
    filled = form.filled(form.inputs[0], neutral)
    keep = bool(form.node.attr("keepdims", 1))
    form.result(form.reduced(form.node.op, filled, _over(form.node), keep=keep))


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
    data = names(node.shape(), measured=[int(node.value(1).reshape(())) % len(node.shape())])
    return f"{data}, _ -> {data.replace('~', '')}"


@axes("CumProd")
def cumulative_product(node: Node) -> str:
    data = names(node.shape(), whole=[int(node.value(1).reshape(())) % len(node.shape())])
    return f"{data}, _ -> {data}"


def _after(data: str, over: list[int], keep: int) -> str:
    """The output's axes: reduced ones as `1`, or gone."""
    left = [
        "1" if axis in over else name for axis, name in enumerate(data.split()) if keep or axis not in over
    ]
    return " ".join(left)
