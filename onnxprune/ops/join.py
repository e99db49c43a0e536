"""Concat and Split: several axes end to end."""

from onnxprune.links import At as Axis
from onnxprune.links import Links, Same
from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


@axes("Concat")
def concat(node: Node) -> str:
    rank = len(node.out_shape())
    axis = node.attr("axis", 1) % rank
    data = [f"x{k}" for k in range(rank)]
    operands = []
    for number in range(len(node.inputs)):
        spelled = ["1" if size == 1 else name for size, name in zip(node.shape(number), data, strict=True)]
        operands.append(" ".join([*spelled[:axis], f"p{number}", *spelled[axis + 1 :]]))
    out = names(node.out_shape()).split()
    joined = f"({' + '.join(f'p{k}' for k in range(len(node.inputs)))})"
    return f"{', '.join(operands)} -> {' '.join([*out[:axis], joined, *out[axis + 1 :]])}"


@axes("Split")
def split(node: Node) -> Links:
    shape = node.shape()
    axis = node.attr("axis", 0) % len(shape)
    links = Links()
    start = 0
    for number in range(len(node.outputs)):
        sizes = node.out_shape(number)
        for k, size in enumerate(sizes):
            if k != axis:
                links.same.append(Same(Axis("in0", k), Axis(f"out{number}", k)))
            elif size is None or shape[k] is None:
                raise Unknown("it splits an axis of dynamic size")
            else:
                links.same.append(Same(Axis("in0", k), Axis(f"out{number}", k), range(start, start + size)))
                start += size
    return links


@repair("Split")
def split_sizes(node: Node, kept: Kept) -> None:
    """Explicit sizes, since what is left is rarely equal."""
    axis = node.attr("axis", 0) % len(node.shape())
    node.raw.attrs.pop("num_outputs", None)
    sizes = [kept.size(out, axis) for out in node.outputs]
    if node.opset < 13:
        node.raw.attrs["split"] = sizes
    else:
        node.set_operand_ints("split", 1, sizes)
