"""Pooling: channels pass, positions stay."""

from onnxprune.ops.registry import Node, Unknown, axes


@axes("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(node: Node) -> str:
    if len([o for o in node.outputs if o is not None]) > 1:
        raise Unknown("its Indices count through all channels")
    return "N c *S -> N c *T"
