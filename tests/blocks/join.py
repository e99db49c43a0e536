"""Joining, splitting and picking along an axis."""

import numpy as np
from onnx import numpy_helper
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import divisible, extent, partner, project, unsqueeze


@block("Concat", on="any")
def concat(g: Sketch, x: Value) -> Value:
    """On the channels; the same value twice at times."""
    parts = [x, x if g.chance(15) else partner(g, x)]
    if g.chance(30):
        parts.append(project(g, x, g.number(1, 4)))
    return g.op("Concat", *(parts if g.chance(60) else parts[::-1]), axis=g.pick([x.axis, x.axis - x.rank]))


@block("Concat of space", on="image")
def concat_space(g: Sketch, x: Value) -> Value:
    return g.op("Concat", x, partner(g, x), axis=g.number(2, x.rank - 1))


@block("Concat of tokens", on="tokens")
def concat_tokens(g: Sketch, x: Value) -> Value:
    """A class token in front: a constant, spread over the batch."""
    token = g.constant(g.random((1, 1, x.channels)), "token")
    if g.dynamic:
        token = g.op("Expand", token, g.op("Concat", extent(g, x, 0), g.ints(1, x.channels), axis=0),
                     shape=(x.shape[0], 1, x.channels), layout="tokens")  # fmt: skip
    else:
        token = g.op("Expand", token, g.ints(x.shape[0], 1, 1), layout="tokens")
    return g.op("Concat", token, x, axis=1)


@block("Concat with a constant", on="image")
def concat_constant(g: Sketch, x: Value) -> Value:
    """Extra channels that do not depend on the input: coordinates, or zeros as padding."""
    shape = (x.shape[0], g.number(1, 2), *x.space)
    tail = g.ints(*shape[1:])
    size = g.op("Concat", extent(g, x, 0), tail, axis=0) if g.dynamic else g.ints(*shape)
    if g.chance(50):
        value = np.array([g.pick([0.0, 0.5])], np.float32)
        extra = g.op("ConstantOfShape", size, value=numpy_helper.from_array(value), shape=shape)
        extra = Value(extra.name, shape, "image")
    else:
        extra = g.op("Expand", g.constant(g.random((1, *shape[1:]))), size, shape=shape)
    return g.op("Concat", x, extra, axis=1)


def split(g: Sketch, x: Value, sizes: list[int], axis: int) -> list[Value]:
    count = len(sizes)
    if g.opset < 13:
        return g.ops("Split", x, count=count, axis=axis, split=sizes)
    # onnxruntime 1.31 takes two Splits of one value for the same if neither states sizes or their number
    again = g.opset < 18 and any(node.op_type == "Split" for node in g.nodes)
    if len(set(sizes)) == 1 and g.chance(60) and not again:
        extra = {"num_outputs": count} if g.opset >= 18 else {}
        return g.ops("Split", x, count=count, axis=axis, **extra)
    return g.ops("Split", x, g.ints(*sizes), count=count, axis=axis)


@block("Split", on="any")
def split_channels(g: Sketch, x: Value) -> list[Value]:
    """Parts that go their own ways."""
    x = divisible(g, x, 2) if x.channels < 3 else x
    first = g.number(1, x.channels - 1)
    return split(g, x, [first, x.channels - first], x.axis)


@block("Split and join", on="any")
def split_and_join(g: Sketch, x: Value) -> Value:
    """CSP: one half through a layer, the other past it; joined by Concat."""
    x = divisible(g, x, 2)
    left, right = split(g, x, [x.channels // 2] * 2, x.axis)
    return g.op("Concat", project(g, left, g.number(2, 4)), right, axis=x.axis)


@block("gated linear unit", on="any")
def glu(g: Sketch, x: Value) -> Value:
    x = divisible(g, x, 2)
    left, right = split(g, x, [x.channels // 2] * 2, x.axis)
    return g.op("Mul", left, g.op("Sigmoid", right), rms=0.6 * x.rms)


@block("unbind", on="any", rare=True)
def unbind(g: Sketch, x: Value) -> Value:
    """Split into single channels, of which some are joined again."""
    x = x if 2 <= x.channels <= 5 else project(g, x, g.number(2, 4))
    parts = split(g, x, [1] * x.channels, x.axis)
    return g.op("Concat", *parts[::-1][: g.number(1, len(parts))], axis=x.axis)


def cut(g: Sketch, x: Value, axis: int, *, start: int, end: int, step: int = 1) -> Value:
    operands = [g.ints(start), g.ints(end), g.ints(axis)]
    return g.op("Slice", x, *operands, *([g.ints(step)] if step != 1 or g.chance(50) else []))


@block("Slice", on="any")
def slice_channels(g: Sketch, x: Value) -> Value | list[Value]:
    """A range, every other channel, the order reversed, or two ranges that overlap or not."""
    x = divisible(g, x, 2)
    c, axis = x.channels, x.axis
    match g.pick(["range", "tail", "strided", "reversed", "halves"]):
        case "range":
            start = g.number(0, c - 2)
            return cut(g, x, axis, start=start, end=g.number(start + 1, c))
        case "tail":
            return cut(g, x, axis - x.rank, start=-g.number(1, c - 1), end=2**31 - 1)
        case "strided":
            return cut(g, x, axis, start=g.number(0, 1), end=c, step=2)
        case "reversed":
            return cut(g, x, axis, start=-1, end=-(2**31), step=-1)
    middle = g.number(1, c // 2)
    return [cut(g, x, axis, start=0, end=c // 2), cut(g, x, axis, start=middle, end=c)]


@block("Slice of space", on="image")
def slice_space(g: Sketch, x: Value) -> Value:
    """Focus: every other point."""
    axis = g.number(2, x.rank - 1)
    start = g.number(0, 1) if x.shape[axis] > 1 else 0
    return cut(g, x, axis, start=start, end=2**31 - 1, step=g.number(1, 2))


@block("Gather", on="any")
def gather(g: Sketch, x: Value) -> Value:
    """Constant indices: a permutation, a choice, repeats, negative ones."""
    c = x.channels
    match g.pick(["permutation", "choice", "repeats", "negative"]):
        case "permutation":
            indices = g.rng.permutation(c)
        case "choice":
            indices = np.sort(g.rng.permutation(c)[: g.number(1, c)])
        case "repeats":
            indices = g.rng.integers(0, c, g.number(2, 8))
        case _:
            indices = g.rng.permutation(c) - c
    return g.op("Gather", x, g.constant(indices.astype(np.int64), "indices"), axis=x.axis)


@block("Gather of one channel", on="image", rare=True)
def gather_one(g: Sketch, x: Value) -> Value:
    """A scalar index takes the axis away; what it leaves is added back to all channels."""
    one = g.op("Gather", x, g.constant(np.int64(g.number(0, x.channels - 1))), axis=1)
    return g.op("Add", x, unsqueeze(g, one, 1))


@block("Tile", on="any")
def tile(g: Sketch, x: Value) -> Value:
    repeats = [1] * x.rank
    repeats[g.pick([x.axis, x.axis, x.rank - 1])] = 2
    return g.op("Tile", x, g.ints(*repeats))


@block("Expand", on="image")
def expand(g: Sketch, x: Value) -> Value:
    """One channel, or one point, spread by an Expand."""
    if g.chance(50):
        return g.op("Expand", project(g, x, 1), g.ints(1, g.number(2, 6), *(1 for _ in x.space)))
    return g.op("Add", x, g.op("Expand", g.op("GlobalMaxPool", x), g.ints(1, 1, *x.space)))
