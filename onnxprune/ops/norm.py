"""Normalisations and Softmax: what passes beside the axes that the statistics run over."""

from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import Node, Unknown, axes


@axes("BatchNormalization")
def batch_normalization(node: Node) -> str:
    if node.attr("training_mode", 0) or len([o for o in node.outputs if o is not None]) > 1:
        raise Unknown("it computes batch statistics")
    if not node.attr("spatial", 1):  # opsets 1 to 8
        raise Unknown("spatial=0 gives every position its own statistics")
    return "N c *S, c, c, c, c -> N c *S"


@axes("InstanceNormalization")
def instance_normalization(node: Node) -> str:
    return "N c *S, c, c -> N c *S"


@axes("LayerNormalization", "RMSNormalization")
def layer_normalization(node: Node) -> str:
    rank = len(node.shape())
    first = node.attr("axis", -1) % rank
    over = range(first, rank)
    data = names(node.shape(), whole=over)
    scales = [_trailing(node, number, data) for number in range(1, len(node.inputs)) if node.has(number)]
    statistics = " ".join([*data.split()[:first], *("1" for _ in over)])
    outputs = [data] + [statistics] * (len(node.outputs) - 1)
    return f"{', '.join([data, *scales])} -> {', '.join(outputs)}"


def _trailing(node: Node, number: int, data: str) -> str:
    """Names of a scale or bias, which broadcasts from the right."""
    sizes = node.shape(number)
    tail = data.split()[len(data.split()) - len(sizes) :]
    return " ".join("1" if size == 1 else name for size, name in zip(sizes, tail, strict=True))


@axes("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> str:
    rank = len(node.shape())
    first = node.attr("axis", -1 if node.opset >= 13 else 1) % rank
    over = (
        [first] if node.opset >= 13 else range(first, rank)
    )  # before, the input is flattened to 2-D at `axis`
    data = names(node.shape(), whole=over)
    return f"{data} -> {data}"


@axes("LpNormalization")
def lp_normalization(node: Node) -> str:
    data = names(node.shape(), whole=[node.attr("axis", -1) % len(node.shape())])
    return f"{data} -> {data}"


@axes("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> str:
    rank = len(node.shape())
    data = names(node.shape(), whole=[axis % rank for axis in node.attr("axes", [0, 2, 3])])
    return f"{data} -> {data}"
