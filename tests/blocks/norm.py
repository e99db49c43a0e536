"""Normalisations. Epsilons are large: dividing by a spread near zero would magnify rounding without bound."""

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import divisible, mean, roomy, with_axes


def scale_and_shift(g: Sketch, *shape: int) -> list[Value]:
    return [g.constant(g.uniform(shape, 0.5, 1.5), "scale"), g.constant(g.random(shape, 0.3), "shift")]


def batch_norm(g: Sketch, x: Value, **attributes: int) -> Value:
    channels = (x.channels,)
    statistics = [
        g.constant(g.random(channels, 0.3), "mean"),
        g.constant(g.uniform(channels, 0.5, 1.5) * np.float32(x.rms**2), "var"),
    ]
    if g.chance(20):
        attributes["momentum"] = 0.8
    return g.op("BatchNormalization", x, *scale_and_shift(g, *channels), *statistics, rms=1, **attributes)


@block("BatchNormalization", on="image")
def batch_norm_image(g: Sketch, x: Value) -> Value:
    return batch_norm(g, x)


@block("BatchNormalization of vectors", on="vector")
def batch_norm_vector(g: Sketch, x: Value) -> Value:
    return batch_norm(g, x)


@block("BatchNormalization training_mode", on="image", since=14, rare=True)
def batch_norm_training(g: Sketch, x: Value) -> Value:
    """Statistics of the batch itself: mixes all axes but the channel."""
    x = roomy(g, x)
    channels = (x.channels,)
    statistics = [g.constant(g.random(channels), "mean"), g.constant(g.uniform(channels, 0.5, 1.5), "var")]
    operands = [x, *scale_and_shift(g, *channels), *statistics]
    return g.ops(
        "BatchNormalization", *operands, count=3, rms=1, training_mode=1, epsilon=0.1, shape=x.shape
    )[0]


@block("InstanceNormalization", on="image")
def instance_norm(g: Sketch, x: Value) -> Value:
    x = roomy(g, x)
    return g.op("InstanceNormalization", x, *scale_and_shift(g, x.channels), rms=1, epsilon=0.05)


@block("GroupNormalization", on="image", since=21)
def group_norm(g: Sketch, x: Value) -> Value:
    x = divisible(g, roomy(g, x), groups := g.number(1, 3))
    parameters = scale_and_shift(g, x.channels)
    y = g.op("GroupNormalization", x, *parameters, rms=1, num_groups=groups, epsilon=0.05, shape=x.shape)
    g.noted.append(y)  # onnx 1.23 does not infer its type
    return y


@block("GroupNormalization by Reshape and InstanceNormalization", on="image")
def group_norm_exported(g: Sketch, x: Value) -> Value:
    """What torch exports for GroupNorm before opset 18."""
    x = divisible(g, roomy(g, x), groups := g.number(1, 3))
    flat = g.op(
        "Reshape", x, g.ints(0, groups, -1), shape=(x.shape[0], groups, x.channels // groups * size(x))
    )
    ones = [g.constant(np.ones(groups, np.float32)), g.constant(np.zeros(groups, np.float32))]
    normed = g.op("InstanceNormalization", flat, *ones, rms=1, epsilon=0.05)
    whole = g.op("Reshape", normed, g.op("Shape", x), shape=x.shape, layout="image")
    scale, shift = scale_and_shift(g, x.channels, *(1 for _ in x.space))
    return g.op("Add", g.op("Mul", whole, scale), shift)


def size(x: Value) -> int:
    return int(np.prod(x.space))


@block("LayerNormalization", on="tokens", since=17)
def layer_norm(g: Sketch, x: Value) -> Value:
    parameters = scale_and_shift(g, x.channels)[: g.number(1, 2)]
    return g.op("LayerNormalization", x, *parameters, rms=1, epsilon=0.05)


@block("LayerNormalization over all of an image", on="image", since=17, rare=True)
def layer_norm_image(g: Sketch, x: Value) -> Value:
    return g.op("LayerNormalization", x, *scale_and_shift(g, *x.shape[1:]), rms=1, axis=1, epsilon=0.05)


@block("LayerNormalization in NHWC", on="image", since=17)
def layer_norm_sandwich(g: Sketch, x: Value) -> Value:
    """ConvNeXt: the channels go last and come back."""
    rank = x.rank
    last = g.op("Transpose", x, perm=(0, *range(2, rank), 1))
    normed = g.op("LayerNormalization", last, *scale_and_shift(g, x.channels), rms=1, axis=-1, epsilon=0.05)
    return g.op("Transpose", normed, perm=(0, rank - 1, *range(1, rank - 1)))


@block("LayerNormalization written out", on="tokens")
def layer_norm_written_out(g: Sketch, x: Value) -> Value:
    """What exporters write before opset 17."""
    centred = g.op("Sub", x, mean(g, x, -1, keepdims=1))
    variance = mean(g, g.op("Pow", centred, g.constant(np.float32(2))), -1, keepdims=1)
    spread = g.op("Sqrt", g.op("Add", variance, g.constant(np.float32(0.05))))
    scale, shift = scale_and_shift(g, x.channels)
    return g.op("Add", g.op("Mul", g.op("Div", centred, spread, rms=1), scale), shift)


@block("L2 norm over channels", on="any")
def l2_normalise(g: Sketch, x: Value) -> Value:
    """torch.nn.functional.normalize: ReduceL2, Clip from below, Expand, Div."""
    norm = with_axes(g, "ReduceL2", x, [x.axis], since=18, keepdims=1)
    floor = g.op("Clip", norm, g.constant(np.float32(0.3)))
    if g.chance(50):
        floor = g.op("Expand", floor, g.op("Shape", x), shape=x.shape)
    return g.op("Div", x, floor, rms=x.channels**-0.5)


@block("MeanVarianceNormalization", on="image", since=13, rare=True)
def mean_variance(g: Sketch, x: Value) -> Value:
    """Over space alone: over the batch it would tie the inputs of a batch to each other."""
    x = roomy(g, x)
    noisy = g.op("Add", x, g.constant(g.random(x.shape[2:])))  # a constant plane has no spread to divide by
    axes = list(range(2, x.rank))
    normed = g.op("MeanVarianceNormalization", noisy, axes=axes, rms=1, shape=x.shape)
    return g.op(
        "Add", normed, g.constant(g.random((x.channels, *(1 for _ in x.space))))
    )  # else its sums are 0
