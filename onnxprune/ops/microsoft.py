"""What onnxruntime's optimizer makes of convolutions, products, activations and norms: their axes, in fewer nodes."""

import numpy as np
from onnx import TensorProto
from onnx.helper import make_node

from onnxprune.links import Links
from onnxprune.ops.conv import conv
from onnxprune.ops.elementwise import elementwise, names
from onnxprune.ops.forms import Form, gated
from onnxprune.ops.linear import gemm, product
from onnxprune.ops.norm import affine, normalised
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.shapes.foreign import Call, Silent, Sizes, shapes

DOMAIN = "com.microsoft"

axes("Gelu", "QuickGelu", "FastGelu", "BiasGelu", domain=DOMAIN)(elementwise)
axes("FusedGemm", domain=DOMAIN)(gemm)


@shapes("Gelu", "QuickGelu", "FastGelu", "BiasGelu", domain=DOMAIN)
def as_given(node: Call) -> list[Sizes]:
    return [node.shape(0)]


@shapes("FusedGemm", domain=DOMAIN)
def gemm_shape(node: Call) -> list[Sizes]:
    return node.as_if("Gemm")


# ---- FusedConv: Conv, then a sum with input 3, then an activation


@axes("FusedConv", domain=DOMAIN)
def fused_conv(node: Node) -> str:
    operands, out = str(conv(node)).split("->")
    return f"{operands}, {out} -> {out}"


@repair("FusedConv", domain=DOMAIN)
def groups_left(node: Node, kept: Kept) -> None:
    """As many groups as are left."""
    if node.attr("group", 1) != 1:
        node.raw.attrs["group"] = kept.size(node.inputs[0], 1) // kept.size(node.inputs[1], 1)


@shapes("FusedConv", domain=DOMAIN)
def conv_shape(node: Call) -> list[Sizes]:
    return node.as_if("Conv")


# ---- FusedMatMul: MatMul of transposed operands


def _order(node: Node | Call, side: str, rank: int) -> list[int]:
    """Which axes of an operand its matrices' axes are, after the transpositions that the op begins with."""
    order = list(range(rank))
    if rank > 1 and node.attr(f"transBatch{side}", 0):
        order = [*order[1:-1], 0, order[-1]]
    if rank > 1 and node.attr(f"trans{side}", 0):
        order[-2:] = reversed(order[-2:])
    return order


@axes("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(node: Node) -> str:
    given = (node.shape(0), node.shape(1))
    orders = [_order(node, side, len(shape)) for side, shape in zip("AB", given, strict=True)]
    a, b = (tuple(shape[k] for k in order) for shape, order in zip(given, orders, strict=True))
    *sides, out = product(a, b)
    spelled = [
        " ".join(side[order.index(k)] for k in range(len(side)))
        for side, order in zip(sides, orders, strict=True)
    ]
    return f"{', '.join(spelled)} -> {' '.join(out)}"


@shapes("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def matmul_shape(node: Call) -> list[Sizes]:
    a, b = (
        tuple(node.shape(number)[k] for k in _order(node, side, len(node.shape(number))))
        for number, side in enumerate("AB")
    )
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise Silent from None
    return [(*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))]


# ---- norms after a sum, or after a look-up


@axes("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(node: Node) -> str:
    """The norm of input + skip + bias; output 3 is that sum."""
    rank = len(node.shape())
    if any(out is not None for out in node.outputs[1:3]):
        raise Unknown("its statistics are read")
    data = names(node.shape(), measured=[rank - 1])
    out = data.replace("~", "")
    channels = out.split()[-1]
    skip = node.shape(1)
    tail = out.split()[rank - len(skip) :]
    spelled = " ".join("1" if size == 1 else name for size, name in zip(skip, tail, strict=True))
    return f"{data}, {spelled}, {channels}, {channels}, {channels} -> {out}, _, _, {out}"


@shapes("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layer_normalization_shape(node: Call) -> list[Sizes]:
    data = node.shape(0)
    return [data, (*data[:-1], 1), (*data[:-1], 1), data]


@gated("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def of_open_sums(form: Form) -> None:
    node = form.node
    simplified = node.op == "SkipSimplifiedLayerNormalization"
    x, skip, scale, *rest = form.inputs
    shift, bias, *_ = ["", *rest, ""] if simplified else [*rest, "", ""]
    total = form.op("Add", x, skip)
    total = form.op("Add", total, bias) if bias else total
    over = [len(node.shape()) - 1]
    x = form.filled(total, 0.0)
    y = normalised(form, x, lambda v: form.mean(v, over), centre=not simplified, epsilon=1e-12)
    unread = [form.constant(0.0), form.constant(0.0)]
    form.result(*[affine(form, y, scale, shift), *unread, total][: len(node.outputs)])


@axes("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(node: Node) -> Links:
    """The norm of the sum of embeddings of words, positions and segments; output 2 is that sum."""
    links = node.links("N T, _, V ~c, P c, S c, c, c, _, _ -> N T c, _, N T c")
    links.macs = None  # it only looks them up
    return links


@gated("EmbedLayerNormalization", domain=DOMAIN, operand="in2")
def of_open_embeddings(form: Form) -> None:
    """The op itself still makes the index of the mask."""
    words, segments, word, position, segment, scale, shift, *rest = form.inputs
    places = rest[1] if len(rest) > 1 else ""
    if not places:
        length = form.op("Slice", form.op("Shape", words), form.constant([1]), form.constant([2]))
        bounds = (
            form.constant(0, TensorProto.INT64),
            form.op("Squeeze", length),
            form.constant(1, TensorProto.INT64),
        )
        places = form.op("Range", *bounds)
    total = form.op("Add", form.op("Gather", word, words), form.op("Gather", position, places))
    if segment:
        total = form.op("Add", total, form.op("Gather", segment, segments))
    last = [-1]  # of words as of their embeddings
    x = form.filled(total, 0.0)
    y = normalised(form, x, lambda v: form.mean_of(form.gate(v), form.mask, last, last), epsilon=1e-12)
    form.nodes.append(make_node("EmbedLayerNormalization", form.inputs, ["plain", "index"], domain=DOMAIN))
    form.result(*[affine(form, y, scale, shift), "index", total][: len(form.node.outputs)])


@shapes("EmbedLayerNormalization", domain=DOMAIN, like=2)
def embed_layer_normalization_shape(node: Call) -> list[Sizes | None]:
    data = (*node.shape(0), node.shape(2)[-1])
    return [data, None, data]
