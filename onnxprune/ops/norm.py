"""Normalisations and Softmax: over an axis that loses channels, they see the open ones only."""

from collections.abc import Callable

from onnx import TensorProto

from onnxprune.ops.elementwise import names
from onnxprune.ops.forms import Form, gated
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


@axes("BatchNormalization")
def batch_normalization(node: Node) -> str:
    if node.attr("training_mode", 0) or len([o for o in node.outputs if o is not None]) > 1:
        raise Unknown("it computes batch statistics")
    if not node.attr("spatial", 1):  # opsets 1 to 8
        raise Unknown("spatial=0 gives every position its own statistics")
    return "N c *S, c, c, c, c -> N c *S"


@axes("InstanceNormalization")
def instance_normalization(node: Node) -> str:
    return "N c ~*s, c, c -> N c *s"


@axes("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(node: Node) -> str:
    over = _over(node)
    several = len([o for o in node.outputs if o is not None]) > 1
    data = names(node.shape(), whole=over if several else (), measured=over)
    plain = data.replace("~", "")
    scales = [_trailing(node, number, plain) for number in range(1, len(node.inputs)) if node.has(number)]
    statistics = " ".join([*plain.split()[: over[0]], *("1" for _ in over)])
    outputs = [plain] + [statistics] * (len(node.outputs) - 1)
    return f"{', '.join([data, *scales])} -> {', '.join(outputs)}"


def _over(node: Node) -> range:
    """The axes that the statistics run over."""
    rank = len(node.shape())
    return range(node.attr("axis", -1) % rank, rank)


def _trailing(node: Node, number: int, data: str) -> str:
    """Names of a scale or bias, which broadcasts from the right."""
    sizes = node.shape(number)
    tail = data.split()[len(data.split()) - len(sizes) :]
    return " ".join("1" if size == 1 else name for size, name in zip(sizes, tail, strict=True))


@axes("GroupNormalization")
def group_normalization(node: Node) -> str:
    groups = node.attr("num_groups", 1)
    scale = "(g c)" if node.opset >= 21 else "g"  # opset 18 scales whole groups
    return f"N (g={groups} ~c) *S, {scale}, {scale} -> N (g c) *S"


@repair("GroupNormalization")
def groups_left(node: Node, kept: Kept) -> None:
    """As many groups as have channels left."""
    per_group = node.shape()[1] // node.attr("num_groups", 1)
    node.raw.attrs["num_groups"] = len(set((kept.indices(node.inputs[0], 1) // per_group).tolist()))


@axes("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> str:
    rank = len(node.shape())
    first = node.attr("axis", -1 if node.opset >= 13 else 1) % rank
    over = (
        [first] if node.opset >= 13 else range(first, rank)
    )  # before, the input is flattened to 2-D at `axis`
    data = names(node.shape(), measured=over)
    return f"{data} -> {data.replace('~', '')}"


@axes("LpNormalization")
def lp_normalization(node: Node) -> str:
    data = names(node.shape(), measured=[node.attr("axis", -1) % len(node.shape())])
    return f"{data} -> {data.replace('~', '')}"


@axes("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> str:
    """Its variance has no epsilon that would hold for a single entry: what it runs over stays whole."""
    rank = len(node.shape())
    data = names(node.shape(), whole=[axis % rank for axis in node.attr("axes", [0, 2, 3])])
    return f"{data} -> {data}"


# ---- over the open channels


def normalised(
    form: Form, x: str, mean: Callable[[str], str], *, centre: bool = True, epsilon: float = 1e-5
) -> str:
    """X less its mean (if `centre`), over the root of its mean square; `epsilon` where the node gives none.

    Closed entries of x are 0: what they hold is nobody's business, and would grow from norm to norm.
    """
    x = form.op("Sub", x, mean(x)) if centre else x
    square = form.op("Add", mean(form.op("Mul", x, x)), form.constant(form.node.attr("epsilon", epsilon)))
    return form.op("Div", x, form.op("Sqrt", square))


def affine(form: Form, y: str, scale: str, bias: str) -> str:
    scaled = form.op("Mul", y, scale) if scale else y
    return form.op("Add", scaled, bias) if bias else scaled


@gated("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def of_open_entries(form: Form) -> None:
    """Statistics in float32 for half-precision inputs, as `stash_type` asks for."""
    given, node = form.element, form.node
    wide = given in (TensorProto.FLOAT16, TensorProto.BFLOAT16) and node.attr("stash_type", 1) == 1
    x, scale, bias = [*form.inputs, "", ""][:3]
    if wide:
        form.element = TensorProto.FLOAT
        x = form.op("Cast", x, to=form.element)
    x = form.filled(x, 0.0)
    y = normalised(form, x, lambda v: form.mean(v, _over(node)), centre=node.op == "LayerNormalization")
    y = form.op("Cast", y, to=given) if wide else y
    form.result(affine(form, y, scale, bias))


@gated("InstanceNormalization")
def of_open_positions(form: Form) -> None:
    rank = len(form.node.shape())
    x = form.filled(form.inputs[0], 0.0)
    y = normalised(form, x, lambda v: form.mean(v, range(2, rank)))
    column = form.constant([-1, *[1] * (rank - 2)])
    form.result(affine(form, y, *(form.op("Reshape", p, column) for p in form.inputs[1:])))


@gated("GroupNormalization")
def of_open_group_members(form: Form) -> None:
    node, (x, scale, bias) = form.node, form.inputs
    groups, channels = node.attr("num_groups", 1), node.shape()[1]
    split = form.constant([0, groups, channels // groups, -1])
    mask = form.op("Reshape", form.mask, form.constant([1, groups, channels // groups, 1]))
    y = normalised(
        form,
        form.op("Reshape", form.filled(x, 0.0), split),
        lambda v: form.mean_of(form.op("Mul", v, mask), mask, (2, 3), (2,)),
    )
    per = form.constant([1, groups, channels // groups if node.opset >= 21 else 1, 1])
    y = affine(form, y, form.op("Reshape", scale, per), form.op("Reshape", bias, per))
    form.result(form.op("Reshape", y, form.op("Shape", x)))


@gated("Softmax", "LogSoftmax", "Hardmax")
def of_open_logits(form: Form) -> None:
    x = form.filled(form.inputs[0], form.lowest)
    form.result(form.op(form.node.op, x, **form.node.raw.attrs))
