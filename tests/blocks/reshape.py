"""Flatten, Reshape, Transpose, Squeeze and Unsqueeze, DepthToSpace: the same numbers in another order."""

from math import prod

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import divisible, mean, project, reshape, squeeze, target, unsqueeze


def small(g: Sketch, x: Value, most: int = 200) -> Value:
    """x with few enough entries that a layer on all of them stays small."""
    return x if prod(x.shape[1:]) <= most else g.op("GlobalAveragePool", x)


@block("Flatten", on="image")
def flatten(g: Sketch, x: Value) -> Value:
    x = small(g, x)
    flat = g.op("Flatten", x, axis=1) if g.chance(50) else reshape(g, x, x.shape[0], prod(x.shape[1:]))
    return project(g, flat, g.number(2, 10))


@block("Flatten the tokens", on="tokens")
def flatten_tokens(g: Sketch, x: Value) -> Value:
    """T and C into one axis, or N and T (torch's Linear on tokens), and back."""
    batch, length, channels = x.shape
    if length * channels <= 200 and g.chance(40):
        return project(g, g.op("Flatten", x, axis=1), g.number(2, 10))
    rows = reshape(g, x, batch * length, channels)
    out = g.number(2, 10)
    weight = g.weight((out, channels), fan_in=channels, rms=x.rms)
    rows = g.op("Gemm", rows, weight, g.weight((out,)), transB=1, rms=1)
    if g.dynamic:
        return g.op("Reshape", rows, g.ints(-1, length, out), shape=(batch, length, out), layout="tokens")
    return reshape(g, rows, batch, length, out, layout="tokens")


@block("Reshape of a vector to an image", on="vector")
def unflatten(g: Sketch, x: Value) -> Value:
    side = g.number(1, 3)
    channels = g.number(2, 5)
    return reshape(g, project(g, x, channels * side * side), x.shape[0], channels, side, side, layout="image")


@block("Reshape of the channels into groups", on="image")
def grouped(g: Sketch, x: Value) -> Value:
    """(G K) apart, a statistic or a scale per group, and together again."""
    groups = g.number(2, 3)
    x = divisible(g, x, groups)
    batch, width, space = x.shape[0], x.channels // groups, x.space
    apart = reshape(g, x, batch, groups, width, *space)
    match g.pick(["mean over width", "mean over groups", "scale of groups", "scale of width"]):
        case "mean over width":
            return mean(g, apart, 2)
        case "mean over groups":
            return mean(g, apart, 1)
        case "scale of groups":
            shape = (groups, 1, *(1 for _ in space))
        case _:
            shape = (width, *(1 for _ in space))
    scaled = g.op("Mul", apart, g.constant(g.uniform(shape, 0.5, 1.5)))
    return reshape(g, scaled, batch, groups * width, *space)


@block("channel shuffle", on="image")
def shuffle(g: Sketch, x: Value) -> Value:
    groups = g.number(2, 3)
    x = divisible(g, x, groups)
    batch, width, space = x.shape[0], x.channels // groups, x.space
    apart = reshape(g, x, batch, groups, width, *space)
    swapped = g.op("Transpose", apart, perm=(0, 2, 1, *range(3, apart.rank)))
    return reshape(g, swapped, batch, groups * width, *space)


@block("Transpose sandwich", on="image")
def channels_last(g: Sketch, x: Value) -> Value:
    """NHWC between two Transposes: a bias on the last axis, a layer, or nothing."""
    rank = x.rank
    last = g.op("Transpose", x, perm=(0, *range(2, rank), 1))
    match g.pick(["bias", "layer", "pair"]):
        case "bias":
            last = g.op("Add", last, g.constant(g.random((x.channels,), 0.4)))
        case "layer":
            out = g.number(2, 10)
            last = g.op("MatMul", last, g.weight((x.channels, out), fan_in=x.channels, rms=x.rms), rms=1)
        case "pair":
            last = g.op("Relu", last, rms=0.7 * x.rms)
    return g.op("Transpose", last, perm=(0, rank - 1, *range(1, rank - 1)))


@block("Transpose of space and channels", on="image", rare=True)
def swapped(g: Sketch, x: Value) -> Value:
    """A spatial axis becomes the channel axis."""
    perm = [0, 2, 1, *range(3, x.rank)]
    return g.op("Transpose", x, perm=perm)


@block("Squeeze and Unsqueeze", on="image")
def squeeze_unsqueeze(g: Sketch, x: Value) -> Value:
    """A pooled image to a vector and back, or an axis in and out."""
    axes = list(range(2, x.rank))
    if g.chance(50):
        vector = squeeze(g, g.op("GlobalAveragePool", x), *axes)
        return g.op("Mul", x, unsqueeze(g, g.op("Tanh", vector), *axes), rms=0.6 * x.rms)
    axis = g.number(1, x.rank)
    return squeeze(g, g.op("Relu", unsqueeze(g, x, axis), rms=0.7 * x.rms), axis - x.rank - 1)


@block("DepthToSpace", on="image")
def depth_to_space(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2 or max(x.space) > 5:
        return g.op("Identity", x)
    mode = g.pick(["DCR", "CRD"])
    return g.op("DepthToSpace", divisible(g, x, 4), blocksize=2, mode=mode)


@block("SpaceToDepth", on="image")
def space_to_depth(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2 or any(size % 2 for size in x.space):
        return g.op("Identity", x)
    return g.op("SpaceToDepth", project(g, x, g.number(1, 4)), blocksize=2)


@block("pixel shuffle by Reshape", on="image", rare=True)
def pixel_shuffle(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2 or max(x.space) > 5:
        return g.op("Identity", x)
    x = divisible(g, x, 4)
    batch, channels, (h, w) = x.shape[0], x.channels // 4, x.space
    apart = reshape(g, x, batch, channels, 2, 2, h, w)
    woven = g.op("Transpose", apart, perm=(0, 1, 4, 2, 5, 3))
    return reshape(g, woven, batch, channels, h * 2, w * 2)


@block("patches", on="image")
def patches(g: Sketch, x: Value) -> Value:
    """An image cut into tokens of 2 by 2 points: space goes into the channels."""
    if len(x.space) != 2 or any(size % 2 for size in x.space):
        x = project(g, x, 4)
        row = reshape(g, x, x.shape[0], 4, prod(x.space))
        return g.op("Transpose", row, perm=(0, 2, 1), layout="tokens")
    x = project(g, x, g.number(1, 3)) if x.channels > 3 else x
    batch, channels, (h, w) = x.shape[0], x.channels, x.space
    apart = reshape(g, x, batch, channels, h // 2, 2, w // 2, 2)
    woven = g.op("Transpose", apart, perm=(0, 2, 4, 1, 3, 5))
    return reshape(g, woven, batch, h * w // 4, channels * 4, layout="tokens")


@block("Reshape to what it was", on="any")
def same(g: Sketch, x: Value) -> Value:
    """The target repeats every size, in one of the ways in which exporters write it."""
    return g.op("Reshape", x, target(g, x, x.shape), shape=x.shape)


@block("positional constant", on="tokens")
def position(g: Sketch, x: Value) -> Value:
    return g.op("Add", x, g.constant(g.random((1, *x.shape[1:]), 0.4), "position"), layout="tokens")


@block("Transpose in one dimension", on="vector", rare=True)
def to_row_and_back(g: Sketch, x: Value) -> Value:
    """A vector as an image of one row, convolved along its channels: they become space."""
    row = unsqueeze(g, x, 1)
    kernel = 3 if x.channels >= 3 else 1
    channels = g.number(2, 4)
    weight = g.weight((channels, 1, kernel), fan_in=kernel, rms=x.rms)
    return g.op("Conv", Value(row.name, row.shape, "image"), weight, pads=[kernel // 2] * 2, rms=1)


@block("Reshape by Shape arithmetic", on="image")
def flatten_computed(g: Sketch, x: Value) -> Value:
    """x.view(x.shape[0], x.shape[1] * x.shape[2] * ...): the sizes multiplied when the model runs."""
    x = small(g, x)
    sizes = g.op("Shape", x)
    rest = g.op("Slice", sizes, g.ints(1), g.ints(x.rank), g.ints(0))
    flat = g.op("ReduceProd", rest, keepdims=1, shape=(1,))
    first = g.op("Slice", sizes, g.ints(0), g.ints(1), g.ints(0))
    shape = (x.shape[0], int(np.prod(x.shape[1:])))
    return project(g, g.op("Reshape", x, g.op("Concat", first, flat, axis=0), shape=shape), g.number(2, 8))
