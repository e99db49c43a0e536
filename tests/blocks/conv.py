"""Convolutions: plain, grouped, depthwise, transposed, and their usual company."""

from math import prod
from typing import Any

from sketch import Sketch, Value

from blocks.norm import batch_norm
from blocks.registry import block
from blocks.ways import divisible


def window(g: Sketch, x: Value) -> dict[str, Any]:
    """Kernel, strides, dilations and padding that fit the image."""
    kernel = [g.pick([1, 3, 2]) if size > 1 else 1 for size in x.space]
    strides = [g.pick([1, 1, 2]) for _ in kernel]
    dilations = [
        g.pick([1, 1, 2]) if 2 * (k - 1) < size else 1 for k, size in zip(kernel, x.space, strict=True)
    ]
    pads = g.pick(["half", "SAME_UPPER", "SAME_LOWER", "VALID", "uneven"])
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if any(d > 1 for d in dilations):
        attributes["dilations"] = dilations
        pads = "half" if pads.startswith("SAME") else pads  # onnxruntime refuses SAME with dilations
    if pads == "half":
        attributes["pads"] = [d * (k - 1) // 2 for k, d in zip(kernel, dilations, strict=True)] * 2
    elif pads == "uneven":
        attributes["pads"] = [0] * len(kernel) + [k - 1 for k in kernel]
    else:
        attributes["auto_pad"] = pads
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if pads != "VALID" or all(size >= r for size, r in zip(x.space, reach, strict=True)):
        return attributes
    del attributes["auto_pad"]
    return attributes | {"pads": [r // 2 for r in reach] * 2}


def convolve(g: Sketch, x: Value, channels: int, groups: int = 1, **attributes: Any) -> Value:
    attributes = attributes or window(g, x)
    kernel = attributes["kernel_shape"]
    fan_in = x.channels // groups * prod(kernel)
    weight = g.weight((channels, x.channels // groups, *kernel), fan_in=fan_in, rms=x.rms)
    bias = [g.weight((channels,))] if g.chance(70) else []
    if groups > 1:
        attributes = attributes | {"group": groups}
    return g.op("Conv", x, weight, *bias, rms=1, **attributes)


@block("Conv", on="image")
def conv(g: Sketch, x: Value) -> Value:
    return convolve(g, x, g.number(2, 12))


@block("Conv 1x1", on="image")
def pointwise(g: Sketch, x: Value) -> Value:
    return convolve(g, x, g.number(2, 12), kernel_shape=[1 for _ in x.space])


@block("Conv grouped", on="image")
def grouped(g: Sketch, x: Value) -> Value:
    groups = g.number(2, 4)
    x = divisible(g, x, groups)
    return convolve(g, x, groups * g.number(1, 3), groups)


@block("Conv depthwise", on="image")
def depthwise(g: Sketch, x: Value) -> Value:
    return convolve(g, x, x.channels * (g.number(1, 3) if x.channels <= 8 else 1), x.channels)


@block("Conv BatchNormalization Relu", on="image")
def conv_norm_relu(g: Sketch, x: Value) -> Value:
    return g.op("Relu", batch_norm(g, convolve(g, x, g.number(2, 12))), rms=0.7)


@block("Conv residual", on="image")
def residual(g: Sketch, x: Value) -> Value:
    same = {"kernel_shape": [3 for _ in x.space], "pads": [1 for _ in x.space] * 2}
    inner = g.op("Relu", batch_norm(g, convolve(g, x, g.number(2, 8), **same)), rms=0.7)
    return g.op("Add", convolve(g, inner, x.channels, **same), x, rms=1.4)


@block("Conv inverted residual", on="image")
def inverted_residual(g: Sketch, x: Value) -> Value:
    wide = g.op("Relu", convolve(g, x, g.number(4, 12), kernel_shape=[1 for _ in x.space]), rms=0.7)
    deep = convolve(
        g,
        wide,
        wide.channels,
        wide.channels,
        kernel_shape=[3 for _ in x.space],
        pads=[1 for _ in x.space] * 2,
    )
    return g.op("Add", x, convolve(g, deep, x.channels, kernel_shape=[1 for _ in x.space]), rms=1.4)


@block("Conv with one weight twice", on="image")
def siamese(g: Sketch, x: Value) -> Value:
    """The same weight along one spine, so that its input and output channels are the same group."""
    weight = g.weight((x.channels, x.channels, *(1 for _ in x.space)), fan_in=x.channels, rms=x.rms)
    inner = g.op("Tanh", g.op("Conv", x, weight, rms=1), rms=0.6)
    return g.op("Conv", inner, weight, g.weight((x.channels,)), rms=1)


@block("Conv of equal weights", on="image")
def two_readers(g: Sketch, x: Value) -> Value:
    """Two unrelated layers that read one weight and one bias, as after deduplication of equal tensors."""
    first = g.op("Tanh", convolve(g, x, x.channels, kernel_shape=[1 for _ in x.space]), rms=0.6)
    weight = g.weight((4, x.channels, *(1 for _ in x.space)), fan_in=x.channels, rms=x.rms)
    bias = g.weight((4,))
    left, right = (g.op("Conv", source, weight, bias, rms=1) for source in (x, first))
    return g.op("Concat", g.op("Relu", left), right, axis=1)


@block("ConvTranspose", on="image")
def conv_transpose(g: Sketch, x: Value) -> Value:
    """Groups, strides with output padding, or the SAME forms of older exporters."""
    groups = g.pick([1, 1, 2, x.channels])
    x = divisible(g, x, groups) if groups in (1, 2) else x
    strides = [g.pick([1, 2]) if size < 6 else 1 for size in x.space]
    kernel = [g.number(s, 3) for s in strides]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if g.chance(20):
        attributes["auto_pad"] = "SAME_UPPER"
    elif g.chance(40):
        attributes["pads"] = [(k - 1) // 2 for k in kernel] * 2
        attributes["output_padding"] = [s - 1 for s in strides]
    per_group = g.number(1, 3) if groups == x.channels else g.number(2, 6)
    fan_in = max(1, x.channels // groups * prod(kernel) // prod(strides))
    weight = g.weight((x.channels, per_group, *kernel), fan_in=fan_in, rms=x.rms)
    bias = [g.weight((per_group * groups,))] if g.chance(60) else []
    return g.op("ConvTranspose", x, weight, *bias, rms=1, group=groups, **attributes)


@block("Conv over the channels", on="image")
def channel_attention(g: Sketch, x: Value) -> Value:
    """ECA: every channel is weighted by what its neighbours are on average."""
    pooled = g.op("Reshape", g.op("GlobalAveragePool", x), g.ints(0, 1, -1), shape=(x.shape[0], 1, x.channels))
    kernel = g.pick([3, 5])
    weight = g.weight((1, 1, kernel), fan_in=kernel)
    scores = g.op("Conv", pooled, weight, kernel_shape=[kernel], pads=[kernel // 2] * 2, shape=pooled.shape)
    target = g.ints(0, x.channels, *[1] * len(x.space))
    weights = g.op("Sigmoid", g.op("Reshape", scores, target, shape=(*x.shape[:2], *[1] * len(x.space))))
    return g.op("Mul", x, weights, layout="image")
