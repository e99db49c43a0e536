"""Ways from one value to another that blocks need: layouts, channel counts, reshapes, partners."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from sketch import Sketch, Value


def with_axes(
    g: Sketch,
    kind: str,
    x: Value,
    axes: Sequence[int],
    *,
    since: int,
    rms: float | None = None,
    **attributes: Any,
) -> Value:
    """An op whose axes were an attribute before opset `since` and are an input from there on."""
    if g.opset >= since:
        return g.op(kind, x, g.ints(*axes), rms=rms, **attributes)
    return g.op(kind, x, axes=list(axes), rms=rms, **attributes)


def unsqueeze(g: Sketch, x: Value, *axes: int) -> Value:
    return with_axes(g, "Unsqueeze", x, axes, since=13)


def squeeze(g: Sketch, x: Value, *axes: int) -> Value:
    return with_axes(g, "Squeeze", x, axes, since=13)


def mean(g: Sketch, x: Value, *axes: int, keepdims: int = 0) -> Value:
    return with_axes(g, "ReduceMean", x, axes, since=18, keepdims=keepdims)


def extent(g: Sketch, x: Value, axis: int) -> Value:
    """The length of one axis as an int64 tensor of one entry, computed when the model runs."""
    if g.opset >= 15 and g.chance(50):
        return g.op("Shape", x, start=axis, end=axis + 1)
    length = g.op("Gather", g.op("Shape", x), g.constant(np.int64(axis)), axis=0, shape=())
    return unsqueeze(g, length, 0)


def target(g: Sketch, x: Value, shape: Sequence[int]) -> Value:
    """The second operand of a Reshape of x, in one of the ways in which exporters write it."""
    literal = list(shape)
    same_batch = shape[0] == x.shape[0]
    way = g.pick(["literal", "infer", "copy", "computed"])
    if g.dynamic and (not same_batch or way == "literal"):
        return g.ints(-1, *literal[1:])
    if way == "computed" and same_batch and len(shape) > 1:
        parts = [extent(g, x, 0), g.ints(*literal[1:])]
        if x.rank > 1 and len(shape) > 2 and shape[1] == x.shape[1] and g.chance(50):
            parts = [parts[0], extent(g, x, 1), g.ints(*literal[2:])]
        return g.op("Concat", *parts, axis=0)
    if way in ("copy", "computed") or g.dynamic:
        literal = [0 if i < x.rank and size == x.shape[i] else size for i, size in enumerate(shape)]
    if way == "infer":
        literal[g.number(1, len(shape) - 1) if g.dynamic else g.number(0, len(shape) - 1)] = -1
    return g.ints(*literal)


def reshape(g: Sketch, x: Value, *shape: int, layout: str | None = None) -> Value:
    return g.op("Reshape", x, target(g, x, shape), shape=shape, layout=layout)


def project(g: Sketch, x: Value, channels: int) -> Value:
    """A plain layer to this many channels: Conv 1x1, MatMul and Add, or Gemm."""
    fan_in = x.channels
    if x.layout == "image":
        weight = g.weight((channels, fan_in, *(1 for _ in x.space)), fan_in=fan_in, rms=x.rms)
        return g.op("Conv", x, weight, g.weight((channels,)), rms=1)
    weight = g.weight((fan_in, channels), fan_in=fan_in, rms=x.rms)
    if x.layout == "vector":
        return g.op("Gemm", x, weight, g.weight((channels,)), rms=1)
    return g.op("Add", g.op("MatMul", x, weight, rms=1), g.weight((channels,)))


def divisible(g: Sketch, x: Value, by: int) -> Value:
    """x, or x projected to a channel count that `by` divides, with at least two multiples."""
    if x.channels % by == 0 and x.channels >= 2 * by:
        return x
    return project(g, x, by * g.number(2, 3))


def partner(g: Sketch, x: Value) -> Value:
    """Another value of x's shape: an older one of the graph, or a branch off x."""
    others = [v for v in g.pool if v.shape == x.shape and v.layout == x.layout and v.name != x.name]
    if others and g.chance(60):
        return g.pick(others)
    return project(g, x, x.channels)


def roomy(g: Sketch, x: Value, least: int = 2) -> Value:
    """x, or an image with at least `least` points along every spatial axis made from it."""
    if min(x.space, default=0) >= least:
        return x
    channels = min(x.channels, 6)
    flat = x if x.layout == "vector" else g.op("Flatten", x, axis=1)
    grown = project(g, flat, channels * 16)
    return reshape(g, grown, x.shape[0], channels, 4, 4, layout="image")


def bounded(g: Sketch, x: Value) -> Value:
    """x, or something smaller made from it, so that graphs stay fast whatever the blocks do."""
    if max(x.space, default=0) > 10:
        ones = [1 if size < 3 else 2 for size in x.space]
        x = g.op("MaxPool", x, kernel_shape=ones, strides=ones)
    if x.layout == "tokens" and x.shape[1] > 40:
        x = as_layout(g, mean(g, x, 1), "vector")
    return project(g, x, g.number(2, 8)) if x.channels > 24 else x


def as_layout(g: Sketch, x: Value, layout: str) -> Value:
    """x in the layout asked for."""
    if layout in (x.layout, "any"):
        return x
    if x.layout == "tokens":
        return token_mean(g, x) if layout == "vector" else tokens_to_image(g, x)
    if x.layout == "image":
        return pooled(g, x) if layout == "vector" else image_to_tokens(g, x)
    return roomy(g, x) if layout == "image" else vector_to_tokens(g, x)


def token_mean(g: Sketch, x: Value) -> Value:
    if g.chance(50):
        return mean(g, x, 1)
    return g.op("Gather", x, g.constant(np.int64(0)), axis=1)  # the class token


def tokens_to_image(g: Sketch, x: Value) -> Value:
    batch, length, channels = x.shape
    row = g.op("Transpose", x, perm=(0, 2, 1), layout="image")
    side = next((n for n in (4, 3, 2) if length % n == 0 and length > n), 0)
    return reshape(g, row, batch, channels, side, length // side) if side and g.chance(70) else row


def pooled(g: Sketch, x: Value) -> Value:
    way = g.pick(["pool", "mean", "flatten"])
    if way == "flatten" and prod(x.shape[1:]) <= 200:
        return g.op("Flatten", x, axis=1)
    if way == "mean":
        return mean(g, x, *range(2, x.rank))
    return g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)


def image_to_tokens(g: Sketch, x: Value) -> Value:
    row = reshape(g, x, x.shape[0], x.channels, prod(x.space)) if x.rank > 3 else x
    return g.op("Transpose", row, perm=(0, 2, 1), layout="tokens")


def vector_to_tokens(g: Sketch, x: Value) -> Value:
    length, channels = g.number(2, 4), g.number(2, 6)
    return reshape(g, project(g, x, length * channels), x.shape[0], length, channels, layout="tokens")
