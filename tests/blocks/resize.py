"""Pad and Resize."""

from typing import Any

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import extent, project


def pad(g: Sketch, x: Value, before: list[int], after: list[int], mode: str = "constant") -> Value:
    """With axes (from opset 18) at times; a pad value other than zero at times."""
    value = g.constant(np.float32(g.pick([0.5, -0.3]))) if mode == "constant" and g.chance(50) else None
    touched = [axis for axis in range(x.rank) if before[axis] or after[axis]]
    # onnxruntime 1.31 permutes the pads wrongly when it moves a Transpose through a Pad that has axes
    transposed = any(node.op_type == "Transpose" for node in g.nodes)
    if g.opset >= 18 and touched and not transposed and g.chance(40):
        pads = [before[axis] for axis in touched] + [after[axis] for axis in touched]
        return g.op("Pad", x, g.ints(*pads), value, g.ints(*touched), mode=mode)
    return g.op("Pad", x, g.ints(*before, *after), *([value] if value else []), mode=mode)


@block("Pad", on="image")
def pad_space(g: Sketch, x: Value) -> Value:
    mode = g.pick(["constant", "edge", "reflect"])
    if mode == "reflect" and min(x.space) < 2:
        mode = "edge"
    axes = range(x.rank)
    before, after = ([g.number(0, 1) if axis > 1 else 0 for axis in axes] for _ in range(2))
    return pad(g, x, before, after, mode)


@block("Pad by less than nothing", on="image", rare=True)
def crop(g: Sketch, x: Value) -> Value:
    after = [-1 if axis > 1 and x.shape[axis] > 2 else 0 for axis in range(x.rank)]
    return pad(g, x, [0] * x.rank, after)


@block("Pad of channels", on="any")
def pad_channels(g: Sketch, x: Value) -> Value:
    """Zeros, or a constant, as further channels: the shortcut of a ResNet of type A."""
    before, after = ([g.number(0, 2) if axis == x.axis else 0 for axis in range(x.rank)] for _ in range(2))
    return pad(g, x, before, after)


def sizes_of(g: Sketch, x: Value, space: list[int]) -> Value:
    """All sizes, the batch and the channels as literals or read from x."""
    if g.dynamic or g.chance(30):
        kept = g.op("Slice", g.op("Shape", x), g.ints(0), g.ints(2), g.ints(0))
        if g.chance(30):
            kept = g.op("Concat", extent(g, x, 0), g.ints(x.channels), axis=0)
        return g.op("Concat", kept, g.ints(*space), axis=0)
    return g.ints(x.shape[0], x.channels, *space)


def resize(g: Sketch, x: Value, **attributes: Any) -> Value:
    """By scales or by sizes, of all axes or (from opset 18) of the spatial ones."""
    factor = g.pick([2, 2, 0.5]) if max(x.space) < 6 else 0.5
    factor = 2 if min(x.space) < 2 else factor
    space = [int(size * factor) for size in x.space]
    shape = (*x.shape[:2], *space)
    if g.opset >= 18 and g.chance(30):
        axes = list(range(2, x.rank))
        how = [g.constant(np.full(len(axes), factor, np.float32))]
        how = how if g.chance(50) else [None, g.ints(*space)]
        return g.op("Resize", x, None, *how, axes=axes, shape=shape, **attributes)
    roi = None if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    if g.chance(50):
        scales = g.constant(np.array([1, 1, *(factor for _ in space)], np.float32))
        return g.op("Resize", x, roi, scales, shape=shape, **attributes)
    none = None if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    return g.op("Resize", x, roi, none, sizes_of(g, x, space), shape=shape, **attributes)


@block("Resize nearest", on="image")
def nearest(g: Sketch, x: Value) -> Value:
    how = g.pick([{}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}])
    return resize(g, x, mode="nearest", **how)


@block("Resize linear", on="image")
def linear(g: Sketch, x: Value) -> Value:
    how = g.pick(["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
    return resize(g, x, mode="linear", coordinate_transformation_mode=how)


@block("Resize cubic", on="image", rare=True)
def cubic(g: Sketch, x: Value) -> Value:
    """After a Conv: onnxruntime moves a Transpose through a Resize, and cannot run a cubic one on NHWC."""
    if len(x.space) != 2:
        return nearest(g, x)
    return resize(g, project(g, x, x.channels), mode="cubic", cubic_coeff_a=-0.75)


@block("Resize to another value", on="image")
def resize_like(g: Sketch, x: Value) -> Value:
    """A feature pyramid: brought to the size of an older value and joined to it."""
    others = [v for v in g.pool if v.layout == "image" and v.rank == x.rank and max(v.space) <= 10]
    other = g.pick(others) if others else x
    shape = (*x.shape[:2], *other.space)
    if (
        g.constant_nodes
    ):  # onnx does not follow sizes through Constant nodes everywhere: literals, as when traced
        space = g.ints(*other.space)
    else:
        g.noted.append(other)  # a slice of a shape that is not known, onnx takes for empty
        space = g.op("Slice", g.op("Shape", other), g.ints(2), g.ints(x.rank), g.ints(0))
    kept = g.op("Slice", g.op("Shape", x), g.ints(0), g.ints(2), g.ints(0))
    empty = None if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    sizes = g.op("Concat", kept, space, axis=0)
    grown = g.op("Resize", x, empty, empty, sizes, mode="nearest", shape=shape)
    return g.op("Concat", grown, other, axis=1)
