"""Ops that move, sample or cut out positions: channels pass, positions stay."""

from onnx import TensorProto

from onnxprune.links import At, Frozen, Links, Same
from onnxprune.ops.elementwise import names
from onnxprune.ops.forms import Form, gated
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair

CUMSUM = 11
"""The first opset with CumSum, by which the gated form of LRN finds its way back."""


@axes("DepthToSpace")
def depth_to_space(node: Node) -> str:
    return f"N {_blocks(node)} *S -> N c *T"


@axes("SpaceToDepth")
def space_to_depth(node: Node) -> str:
    return f"N c *S -> N {_blocks(node)} *T"


def _blocks(node: Node) -> str:
    """The deep axis: every channel with all positions of a block, the channel inside or outside of them."""
    return "(c B)" if node.text("mode", "DCR") == "CRD" else "(B c)"


@axes("GridSample")
def grid_sample(node: Node) -> str:
    return "N c *S, N *T D -> N c *T"


@axes("AffineGrid")
def affine_grid(node: Node) -> str:
    raise Unknown("it makes sampling positions, which have no channels")


@axes("RoiAlign")
def roi_align(node: Node) -> str:
    return "N c H W, R F, R -> R c T U"


@axes("MaxRoiPool")
def max_roi_pool(node: Node) -> str:
    return "N c H W, R F -> R c T U"


@axes("MaxUnpool")
def max_unpool(node: Node) -> str:
    raise Unknown("its Indices count through all channels")


@axes("Col2Im")
def column_to_image(node: Node) -> str:
    return "N (c B) L, _, _ -> N c *T"


@axes("ReverseSequence")
def reverse_sequence(node: Node) -> str:
    rank = len(node.shape())
    data = names(node.shape(), {node.attr("batch_axis", 1) % rank, node.attr("time_axis", 0) % rank})
    return f"{data}, _ -> {data}"


@axes("Trilu")
def triangle(node: Node) -> str:
    rank = len(node.shape())
    data = names(node.shape(), {rank - 2, rank - 1})
    return f"{data}, _ -> {data}"


@axes("DFT")
def fourier_transform(node: Node) -> str:
    rank = len(node.shape())
    axis = int(node.value(2).reshape(())) if node.has(2) else node.attr("axis", 1 if node.opset < 20 else -2)
    mixed = {axis % rank, rank - 1}
    data = names(node.shape(), mixed).split()
    out = [f"K{k}" if k in mixed and size != 1 else data[k] for k, size in enumerate(node.out_shape())]
    out = ["1" if size == 1 else name for name, size in zip(out, node.out_shape(), strict=True)]
    return f"{' '.join(data)}, _, _ -> {' '.join(out)}"


@axes("STFT")
def short_time_fourier_transform(node: Node) -> str:
    return "n L *D, _, _, _ -> n F K C"


@axes("CenterCropPad")
def center_crop_pad(node: Node) -> Links:
    links = Links(frozen=[Frozen(At("in1", 0), "reads it as a shape")])
    for axis, (size, out) in enumerate(zip(node.shape(), node.out_shape(), strict=True)):
        source, target = At("in0", axis), At("out0", axis)
        if size == out:
            links.same.append(Same(source, target))
        else:
            links.frozen += [Frozen(at, "cuts or fills it around its middle") for at in (source, target)]
    return links


@repair("CenterCropPad")
def sizes_left(node: Node, kept: Kept) -> None:
    """The shape operand repeats the sizes of axes that pass."""
    out, shape = node.outputs[0], node.out_shape()
    over = [axis % len(shape) for axis in node.attr("axes", range(len(shape)))]
    node.set_shape(1, [None if shape[axis] is None else kept.size(out, axis) for axis in over])


@axes("DeformConv")
def deformable_conv(node: Node) -> str:
    """Offsets and masks lie by groups of input channels, as the weight does by its own; one lies within the other."""
    groups, offset_groups = node.attr("group", 1), node.attr("offset_group", 1)
    if groups % offset_groups == 0:
        outer, inner = offset_groups, groups // offset_groups
        weight, out, offset = "(g k o) i", "(g k o)", "g"
    elif offset_groups % groups == 0:
        outer, inner = groups, offset_groups // groups
        weight, out, offset = "(g o) (k i)", "(g o)", "g k"
    else:
        raise Unknown("its channels are grouped in two ways")
    if groups == node.shape()[1]:  # depthwise: what is made of a channel stays with it
        weight, out = weight.replace("o", "M"), out.replace("o", "M")
    operands = f"N (g={outer} k={inner} i) *S, {weight} *K, N ({offset} F) *T, {out}, N ({offset} Q) *T"
    return f"{operands} -> N {out} *T | N g k i o M *T *K"


@repair("DeformConv")
def groups_left(node: Node, kept: Kept) -> None:
    """As many groups, and as many groups of offsets, as have channels left."""
    channels = node.shape()[1]
    left = kept.indices(node.inputs[0], 1)
    for attribute in ("group", "offset_group"):
        if node.attr(attribute, 1) > 1:
            node.raw.attrs[attribute] = len(set((left // (channels // node.attr(attribute))).tolist()))


@axes("LRN")
def local_response(node: Node) -> str:
    """Its window runs over neighbouring channels: over those that are left, in the slim model."""
    if node.opset < CUMSUM:
        raise Unknown(f"its window over the channels has a gated form from opset {CUMSUM} on only")
    return "N ~c *s -> N c *s"


@gated("LRN")
def over_open_neighbours(form: Form) -> None:
    """Open channels side by side; a closed one is given what the last open one before it has, and closed later."""
    mask = form.op("Reshape", form.mask, form.constant([-1]))
    packed = form.op("Compress", form.inputs[0], form.op("Cast", mask, to=TensorProto.BOOL), axis=1)
    y = form.op("LRN", packed, **form.node.raw.attrs)
    count = form.op("CumSum", mask, form.op("Squeeze", form.constant([0])))
    place = form.op("Max", form.op("Sub", count, form.constant(1)), form.constant(0))
    form.result(form.op("Gather", y, form.op("Cast", place, to=TensorProto.INT64), axis=1))
