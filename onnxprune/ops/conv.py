"""How channels run through convolutions."""

from collections.abc import Sequence

from onnx import TensorProto

from onnxprune.ops.forms import Form, gated
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.shapes.foreign import Call, Sizes, shapes


@axes("Conv")
def conv(node: Node) -> str:
    groups, in_per_group = node.attr("group", 1), node.shape(1)[1]
    if along_channels(node):
        return "N 1 ~s, 1 1 K, 1 -> N 1 s"
    s, t = positions(node, node.shape(1)[2:])
    if groups == 1:
        return f"N i {s}, o i *K, o -> N o {t}"
    if in_per_group == 1:  # depthwise: the group is the channel
        return f"N c {s}, (c M) 1 *K, (c M) -> N (c M) {t}"
    return f"N (g i) {s}, (g o) i *K, (g o) -> N (g o) {t}"


def positions(node: Node, kernel: Sequence[int | None]) -> tuple[str, str]:
    """The axes that a window slides over, of input and output; they pass where each position follows from itself."""
    count = len(kernel)
    strides, pads = node.attr("strides", [1] * count), node.attr("pads", [0] * 2 * count)
    alone = [
        size == 1 and strides[k] == 1 and not pads[k] and not pads[k + count] for k, size in enumerate(kernel)
    ]
    if all(alone) or not any(alone):
        return ("*s", "*s") if all(alone) else ("*S", "*T")
    given, made = (" ".join(f"s{k}" if a else f"{n}{k}" for k, a in enumerate(alone)) for n in "ST")
    return given, made


def along_channels(node: Node) -> bool:
    """Whether it slides over an axis of static size, one channel to one, as channel attention does (ECA): these may be
    channels, and the neighbours of an open one are those that are open.
    """
    x, weight, y = node.shape(), node.shape(1), node.out_shape()
    alike = len(x) == 3 and x[2] is not None and x[2] == y[2] and node.attr("strides", [1]) == [1]
    return alike and weight[:2] == (1, 1) and node.opset >= 12


@gated("Conv", when=along_channels)
def over_open_neighbours(form: Form) -> None:
    """The open entries side by side; a closed one takes after the last open one before it, and is not looked at."""
    x, *parameters = form.inputs
    is_open = form.op("Cast", form.op("Reshape", form.mask, form.constant([-1])), to=TensorProto.BOOL)
    y = form.op("Conv", form.op("Compress", x, is_open, axis=2), *parameters, **form.node.raw.attrs)
    count = form.op(
        "CumSum", form.op("Cast", is_open, to=TensorProto.INT64), form.constant(0, TensorProto.INT64)
    )
    place = form.op("Sub", count, form.constant(1, TensorProto.INT64))
    form.result(form.op("Gather", y, form.op("Max", place, form.constant(0, TensorProto.INT64)), axis=2))


@axes("ConvTranspose")
def conv_transpose(node: Node) -> str:
    groups, channels = node.attr("group", 1), node.shape(1)[0]
    if groups == 1:
        return "N i *S, i o *K, o -> N o *T | N i o *S *K"
    if groups == channels:
        return "N c *S, c M *K, (c M) -> N (c M) *T | N c M *S *K"
    return "N (g i) *S, (g i) o *K, (g o) -> N (g o) *T | N g i o *S *K"


@repair("Conv", "ConvTranspose")
def group_count(node: Node, kept: Kept) -> None:
    """As many groups as are left."""
    if node.attr("group", 1) == 1:
        return
    channels = kept.size(node.inputs[0], 1)
    if node.op == "Conv":
        node.raw.attrs["group"] = channels // kept.size(node.inputs[1], 1)
    else:
        outputs = kept.size(node.outputs[0], 1)
        node.raw.attrs["group"] = outputs // kept.size(node.inputs[1], 1)


_OTHER_FORMS = (
    "channels_last", "input_channels", "state_channels_last", "state_length", "state_window", "state_update_capacity"
)  # fmt: skip
"""Attributes that, above 0, lay out the operands or states of onnxruntime's otherwise."""


@axes("CausalConvWithState")
@axes("CausalConvWithState", domain="com.microsoft")
def causal_conv(node: Node) -> str:
    """Depthwise over what came before: its own past, which it hands on."""
    given = next((name for name in _OTHER_FORMS if node.attr(name, 0) > 0), None)
    if given is not None:
        raise Unknown(f"its channels or states lie otherwise ({given} is {node.attr(given)})")
    return "N c L, c 1 K, c, N c P -> N c L, N c P | N c L K"


@shapes("CausalConvWithState", domain="com.microsoft")
def causal_conv_shapes(node: Call) -> list[Sizes]:
    return node.as_if("CausalConvWithState")
