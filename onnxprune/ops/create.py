"""ConstantOfShape: a tensor of a given shape with the same value all over."""

from onnxprune.links import At, Frozen, Links
from onnxprune.ops.registry import Kept, Node, axes, repair


@axes("ConstantOfShape")
def constant_of_shape(node: Node) -> Links:
    """Every entry is the same, so any of them may go."""
    axes_ = [At("out0", axis) for axis in range(len(node.out_shape()))]
    return Links(free=axes_, frozen=[Frozen(At("in0", 0), "reads it as a shape")])


@repair("ConstantOfShape")
def fill_shape(node: Node, kept: Kept) -> None:
    """The shape operand with what is left of the output's static axes."""
    out = node.outputs[0]
    sizes = [kept.size(out, axis) if size is not None else None for axis, size in enumerate(node.out_shape())]
    node.set_shape(0, sizes)
