"""Pooling: channels pass, and positions that are not pooled."""

from onnxprune.ops.conv import positions
from onnxprune.ops.registry import Node, Unknown, axes


@axes("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(node: Node) -> str:
    if len([o for o in node.outputs if o is not None]) > 1:
        raise Unknown("its Indices count through all channels")
    s, t = positions(node, node.attr("kernel_shape", [None] * (len(node.shape()) - 2)))
    return f"N c {s} -> N c {t}"
