"""Ops that move, sample or cut out positions, and permutations of the channels."""

from math import prod

import numpy as np
from onnx import TensorProto
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import divisible, extent, mean, project, reshape, squeeze, unsqueeze, with_axes


def plane(g: Sketch, x: Value, least: int = 2) -> Value:
    """x, or an image of two spatial axes made from it."""
    if len(x.space) == 2 and min(x.space) >= least:
        return x
    channels = min(x.channels, 6)
    flat = mean(g, x, *range(2, x.rank))
    return reshape(g, project(g, flat, channels * 16), x.shape[0], channels, 4, 4, layout="image")


def samples(g: Sketch, x: Value) -> Value:
    """0, 1, ... for each sample."""
    first, count, step = g.constant(np.int64(0)), squeeze(g, extent(g, x, 0), 0), g.constant(np.int64(1))
    return g.op("Range", first, count, step, shape=(x.shape[0],), elem=TensorProto.INT64)


def per_sample(g: Sketch, x: Value, array: np.ndarray) -> Value:
    """The same array for each sample: a constant where the batch is fixed."""
    if not g.dynamic and g.chance(50):
        return g.constant(np.repeat(array[None], x.shape[0], axis=0))
    shape = g.op("Concat", extent(g, x, 0), g.ints(*array.shape), axis=0, shape=(array.ndim + 1,))
    return g.op("Expand", g.constant(array[None]), shape, shape=(x.shape[0], *array.shape))


def forward(g: Sketch, x: Value, axis: int) -> tuple[Value, tuple[int, ...]]:
    """x with this axis in front, and the order that brings it back."""
    order = (axis, *(k for k in range(x.rank) if k != axis))
    return g.op("Transpose", x, perm=order), tuple(order.index(k) for k in range(x.rank))


# ---- permutations


@block("channel shuffle of three factors", on="image")
def shuffle_thrice(g: Sketch, x: Value) -> Value:
    """The channels cut into two or three factors, in any order; channels first, last, or all by Squeeze and Flatten."""
    factors = (2, 2, 2) if x.channels % 8 == 0 or g.chance(30) else (2, g.number(2, 3))
    x = x if x.channels % prod(factors) == 0 else project(g, x, prod(factors) * g.number(1, 2))
    batch, space, count = x.shape[0], x.space, len(factors)
    cut = (*factors[:-1], x.channels // prod(factors[:-1]))
    order = list(range(count))
    while order == list(range(count)):
        order = [order.pop(g.number(0, len(order) - 1)) for _ in range(count)]
    last = g.chance(40)
    if last:
        x = g.op("Transpose", x, perm=(0, *range(2, x.rank), 1))
    at = x.rank - 1 if last else 1
    shape = (batch, *space, *cut) if last else (batch, *cut, *space)
    apart = reshape(g, x, *shape)
    perm = [*range(at), *(at + k for k in order), *range(at + count, len(shape))]
    swapped = g.op("Transpose", apart, perm=perm)
    if g.chance(30):
        swapped = squeeze(g, unsqueeze(g, swapped, 1), 1)
    y = reshape(g, swapped, *x.shape)
    return g.op("Transpose", y, perm=(0, y.rank - 1, *range(1, y.rank - 1))) if last else y


@block("shuffle of channels between grouped convolutions", on="image")
def shuffle_between_groups(g: Sketch, x: Value) -> Value:
    groups = 2
    x = project(g, x, groups * g.number(2, 3))
    width = x.channels // groups
    x = grouped(g, x, groups)
    apart = reshape(g, x, x.shape[0], groups, width, *x.space)
    swapped = g.op("Transpose", apart, perm=(0, 2, 1, *range(3, apart.rank)))
    y = reshape(g, swapped, *x.shape)
    return grouped(g, y, g.pick([groups, width])) if g.chance(70) else y


def grouped(g: Sketch, x: Value, groups: int) -> Value:
    width = x.channels // groups
    weight = g.weight((x.channels, width, *(1 for _ in x.space)), fan_in=width, rms=x.rms)
    return g.op("Conv", x, weight, group=groups, rms=1)


@block("shuffle of a vector", on="vector")
def shuffle_vector(g: Sketch, x: Value) -> Value:
    x = divisible(g, x, 2)
    apart = reshape(g, x, x.shape[0], 2, x.channels // 2, layout="tokens")
    return g.op("Flatten", g.op("Transpose", apart, perm=(0, 2, 1)), axis=1)


# ---- sampling


@block("GridSample", on="image", since=16)
def grid_sample(g: Sketch, x: Value) -> Value:
    """At fixed places, or where the image itself says."""
    if len(x.space) == 3 and g.opset >= 20:
        grid = per_sample(g, x, g.uniform((2, 2, 2, 3), -0.9, 0.9))
        return g.op("GridSample", x, grid, align_corners=1, mode="linear", shape=(*x.shape[:2], 2, 2, 2))
    x = plane(g, x)
    if g.chance(50):
        grid = per_sample(g, x, g.uniform((3, 3, 2), -0.9, 0.9))
    else:
        grid = g.op("Transpose", g.op("Tanh", project(g, x, 2)), perm=(0, 2, 3, 1))
    mode = "linear" if g.opset >= 20 else "bilinear"
    shape = (*x.shape[:2], *grid.shape[1:3])
    return g.op("GridSample", x, grid, align_corners=g.pick([0, 1]), mode=mode, shape=shape)


@block("AffineGrid", on="image", since=20, rare=True)
def spatial_transformer(g: Sketch, x: Value) -> Value:
    x = plane(g, x)
    theta = g.op("Add", project(g, mean(g, x, 2, 3), 6), g.constant(np.float32([2, 0, 0, 0, 2, 0])))
    theta = reshape(g, g.op("Mul", theta, g.constant(np.float32(0.4))), x.shape[0], 2, 3, layout="tokens")
    size = g.op("Shape", x) if g.dynamic or g.chance(50) else g.ints(*x.shape)
    grid = g.op("AffineGrid", theta, size, shape=(x.shape[0], *x.space, 2))
    return g.op("GridSample", x, grid, shape=x.shape)


@block("RoiAlign", on="image", since=16)
def roi_align(g: Sketch, x: Value) -> Value:
    """One region of each sample."""
    if g.opset >= 22:  # which onnxruntime does not run
        return g.op("Identity", x)
    x = plane(g, x)
    region = g.uniform((4,), 0, 1) * np.float32([1, 1, *x.space[::-1]])
    shape = (*x.shape[:2], 2, 2)
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    return g.op("RoiAlign", x, per_sample(g, x, region), samples(g, x), shape=shape, **attributes)


@block("MaxRoiPool", on="image", rare=True)
def max_roi_pool(g: Sketch, x: Value) -> Value:
    if g.opset >= 22:  # which onnxruntime does not run
        return g.op("Identity", x)
    x = plane(g, x)
    number = g.op("Cast", unsqueeze(g, samples(g, x), 1), to=TensorProto.FLOAT)
    region = per_sample(g, x, np.float32([0, 0, x.space[1] - 1, x.space[0] - 1]))
    rois = g.op("Concat", number, region, axis=1)
    return g.op("MaxRoiPool", x, rois, pooled_shape=[2, 2], shape=(*x.shape[:2], 2, 2))


@block("DeformConv", on="image", since=19)
def deformable(g: Sketch, x: Value) -> Value:
    """With and without groups, offset groups, bias and mask."""
    x = plane(g, x, 3)
    groups = g.pick([1, 1, 2])
    offset_groups = g.pick([1, 1, groups, 2])
    x = divisible(g, x, 2)
    if g.chance(25):
        groups = x.channels
    out = groups * g.number(1, 3) if groups > 1 else g.number(2, 6)
    inner = x.channels // groups
    weight = g.weight((out, inner, 3, 3), fan_in=9 * inner, rms=x.rms)
    offset = g.op("Mul", project(g, x, offset_groups * 18), g.constant(np.float32(0.3)))
    bias = g.weight((out,)) if g.chance(50) else None
    mask = g.op("Sigmoid", project(g, x, offset_groups * 9)) if g.chance(50) else None
    operands = [x, weight, offset, bias, mask][: 5 if mask else 4 if bias else 3]
    attributes = {
        "kernel_shape": [3, 3],
        "pads": [1, 1, 1, 1],
        "group": groups,
        "offset_group": offset_groups,
    }
    return g.op("DeformConv", *operands, shape=(x.shape[0], out, *x.space), rms=1, **attributes)


# ---- cutting and moving


@block("Col2Im", on="image", since=18)
def fold(g: Sketch, x: Value) -> Value:
    """Overlapping patches of 2 by 2 points, added up."""
    x = project(g, plane(g, x), 4 * g.number(1, 3))
    h, w = x.space
    columns = reshape(g, x, x.shape[0], x.channels, h * w)
    shape = (x.shape[0], x.channels // 4, h + 1, w + 1)
    image, blocks = g.ints(h + 1, w + 1), g.ints(2, 2)
    return g.op("Col2Im", columns, image, blocks, shape=shape, layout="image", rms=2 * x.rms)


@block("CenterCropPad", on="image", since=18)
def center(g: Sketch, x: Value) -> Value:
    """Of the positions, by their axes or with the sizes of the others repeated. Not behind a Transpose: onnxruntime
    1.31 moves it past the crop and crops other axes then, in the original as well.
    """
    if any(node.op_type == "Transpose" for node in g.nodes):
        return g.op("Identity", x)
    space = [max(1, size + g.pick([-1, 0, 1])) for size in x.space]
    shape = (*x.shape[:2], *space)
    if g.dynamic or g.chance(50):
        axes = list(range(g.pick([1, 2]), x.rank))
        return g.op("CenterCropPad", x, g.ints(*(shape[axis] for axis in axes)), axes=axes, shape=shape)
    return g.op("CenterCropPad", x, g.ints(*shape), shape=shape)


@block("MaxUnpool", on="image", rare=True)
def unpool(g: Sketch, x: Value) -> Value:
    """Back to where the maxima were; their indices count through all channels."""
    if len(x.space) != 2 or any(size % 2 for size in x.space):
        return g.op("Identity", x)
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    small = (*x.shape[:2], x.space[0] // 2, x.space[1] // 2)
    y, places = g.ops("MaxPool", x, count=2, shape=small, **window)
    return g.op("MaxUnpool", g.op("Tanh", y), places, shape=x.shape, **window)


@block("LRN", on="image")
def local_response(g: Sketch, x: Value) -> Value:
    return g.op("LRN", plane(g, x), size=g.pick([3, 3, 5]), alpha=0.3, beta=0.5)


@block("Trilu", on="any", since=14, rare=True)
def triangle(g: Sketch, x: Value) -> Value:
    return g.op("Trilu", x, upper=g.pick([0, 1])) if x.rank > 2 else g.op("Identity", x)


@block("ReverseSequence", on="any", rare=True)
def reverse(g: Sketch, x: Value) -> Value:
    """Backwards along one axis, each sample by the same length; onnxruntime knows two places for that axis."""
    time = g.number(1, x.rank - 1)
    lengths = per_sample(g, x, np.asarray(max(1, x.shape[time] - 1), np.int64))
    if time == 1:
        return g.op("ReverseSequence", x, lengths, batch_axis=0, time_axis=1)
    first, back = forward(g, x, time)
    return g.op("Transpose", g.op("ReverseSequence", first, lengths, batch_axis=1, time_axis=0), perm=back)


@block("DFT", on="image", since=17)
def spectrum(g: Sketch, x: Value) -> Value:
    """The power of each frequency along the last axis."""
    x = g.op("Identity", x) if x.rank < 5 else mean(g, x, 4)
    signal = unsqueeze(g, x, x.rank)
    shape = (*x.shape, 2)
    if g.opset >= 20:
        axis = g.constant(np.int64(x.rank - 1))
        waves = g.op("DFT", signal, None, axis, shape=shape)
    else:
        waves = g.op("DFT", signal, axis=x.rank - 1, shape=shape)
    power = with_axes(g, "ReduceSumSquare", waves, [x.rank], since=18, keepdims=0)
    return g.op("Mul", power, g.constant(np.float32(0.5 / x.shape[-1])), layout="image")


@block("STFT", on="vector", since=17, rare=True)
def short_time_spectrum(g: Sketch, x: Value) -> Value:
    signal = project(g, x, 16)
    step, length = g.constant(np.int64(4)), g.constant(np.int64(8))
    frames = g.op("STFT", signal, step, None, length, onesided=1, shape=(x.shape[0], 3, 5, 2))
    return with_axes(g, "ReduceL2", frames, [3], since=18, keepdims=0)
