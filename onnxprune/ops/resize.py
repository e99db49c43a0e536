"""Resize and Upsample: axes that are not resized pass."""

from onnxprune.links import At, Frozen, Links, Same
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


def _untouched(node: Node) -> list[bool]:
    """Per axis: is it provably left as it is? A scale near 1 that rounds to the same size still mixes entries."""
    rank = len(node.shape())
    over = [axis % rank for axis in node.attr("axes", list(range(rank)))]
    same = [axis not in over for axis in range(rank)]
    if node.op == "Resize" and node.has(3):
        for axis in over:
            size = node.shape()[axis]
            same[axis] = size is not None and size == node.out_shape()[axis]
        return same
    number = 2 if node.op == "Resize" and node.opset >= 11 else 1
    scales = node.raw.attrs["scales"] if "scales" in node.raw.attrs else node.value(number).tolist()
    for axis, scale in zip(over, scales, strict=True):
        same[axis] = scale == 1.0
    return same


@axes("Resize", "Upsample")
def resize(node: Node) -> Links:
    if node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Unknown("it crops by a region operand")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unknown("it fits the sizes to the aspect ratio")
    links = Links()
    for axis, same in enumerate(_untouched(node)):
        if same:
            links.same.append(Same(At("in0", axis), At("out0", axis)))
        else:
            links.frozen += [Frozen(At(side, axis), "resizes this axis") for side in ("in0", "out0")]
    return links


@repair("Resize")
def resize_sizes(node: Node, kept: Kept) -> None:
    """The sizes operand repeats the channel count."""
    if not node.has(3) or not kept.changed(node.outputs[0]):
        return
    rank = len(node.shape())
    over = [axis % rank for axis in node.attr("axes", list(range(rank)))]
    sizes = [
        kept.size(node.outputs[0], axis) if node.out_shape()[axis] is not None else None for axis in over
    ]
    node.set_shape(3, sizes)
