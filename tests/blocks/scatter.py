"""Ops that read or write at indices, and sequences."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto
from sketch import Sketch, Value

from blocks.registry import block
from blocks.space import forward, per_sample
from blocks.ways import mean, project, unsqueeze


def chosen(g: Sketch, size: int, *, repeats: bool = True) -> list[int]:
    """Some entries of an axis of this size, in any order, some of them counted from the end."""
    if repeats:
        found = [g.number(0, size - 1) for _ in range(g.number(1, size))]
    else:
        left = list(range(size))
        found = [left.pop(g.number(0, len(left) - 1)) for _ in range(g.number(1, size))]
    return [entry - size if g.chance(20) else entry for entry in found]


def along(indices: Sequence[int], shape: Sequence[int], axis: int) -> np.ndarray:
    """These indices along an axis, the same everywhere else."""
    line = np.asarray(indices, np.int64).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(line, [len(indices) if k == axis else size for k, size in enumerate(shape)])


def anywhere(g: Sketch, size: int, shape: Sequence[int], axis: int) -> np.ndarray:
    """Other indices at every place, none twice on a line."""
    keys = g.rng.random([size if k == axis else n for k, n in enumerate(shape)])
    return np.argsort(keys, axis=axis).take(range(g.number(1, size)), axis=axis)


@block("GatherElements", on="any")
def gather_elements(g: Sketch, x: Value) -> Value:
    """By the same indices everywhere (whole entries), by others at every place, on all or on the first entries."""
    axis = g.number(1, x.rank - 1)
    shape = list(x.shape[1:])
    if g.chance(30):
        shape = [size if k == axis - 1 else g.number(1, size) for k, size in enumerate(shape)]
    if g.chance(70):
        indices = along(chosen(g, x.shape[axis]), shape, axis - 1)
    else:
        indices = anywhere(g, x.shape[axis], shape, axis - 1)
    given = per_sample(g, x, indices)
    return g.op("GatherElements", x, given, axis=axis)


@block("ScatterElements", on="any")
def scatter_elements(g: Sketch, x: Value) -> Value:
    """A branch off x written over some of it, or added to it."""
    axis = g.number(1, x.rank - 1)
    if g.chance(70):
        indices = along(chosen(g, x.shape[axis], repeats=False), x.shape[1:], axis - 1)
    else:
        indices = anywhere(g, x.shape[axis], x.shape[1:], axis - 1)
    given = per_sample(g, x, indices)
    branch = project(g, x, x.channels)
    updates = g.op("Slice", branch, g.ints(0), g.ints(given.shape[axis]), g.ints(axis))
    how = {"reduction": "add"} if g.opset >= 16 and g.chance(30) else {}
    return g.op("ScatterElements", x, given, updates, axis=axis, **how)


@block("GatherND", on="any", since=12)
def gather_nd(g: Sketch, x: Value) -> Value:
    """Entries of one axis brought to the front, or of each sample's own."""
    axis = g.number(1, x.rank - 1)
    if g.chance(50):
        first, back = forward(g, x, axis)
        indices = g.constant(np.asarray(chosen(g, x.shape[axis]), np.int64)[:, None])
        return g.op("Transpose", g.op("GatherND", first, indices), perm=back)
    indices = per_sample(g, x, np.asarray(chosen(g, x.shape[1]), np.int64)[:, None])
    return g.op("GatherND", x, indices, batch_dims=1, shape=(x.shape[0], indices.shape[1], *x.shape[2:]))


@block("GatherND of two axes", on="image", rare=True)
def gather_pairs(g: Sketch, x: Value) -> Value:
    """A grid of channels by rows, or channels and rows in pairs."""
    front = g.op("Transpose", x, perm=(1, 2, 0, *range(3, x.rank)))
    channels, rows = chosen(g, x.channels), chosen(g, x.space[0])
    if g.chance(50):
        pairs = np.stack(np.meshgrid(channels, rows, indexing="ij"), axis=-1)
        y = g.op("GatherND", front, g.constant(pairs))
        return g.op("Transpose", y, perm=(2, 0, 1, *range(3, y.rank)))
    count = min(len(channels), len(rows))
    pairs = np.stack([channels[:count], rows[:count]], axis=-1)
    y = g.op("GatherND", front, g.constant(pairs))
    y = g.op("Transpose", y, perm=(1, 0, *range(2, y.rank)))
    return y if y.rank > 2 else g.op("Identity", y, layout="vector")


@block("ScatterND", on="any")
def scatter_nd(g: Sketch, x: Value) -> Value:
    """Entries of one axis, brought to the front, written over by those of a branch off x."""
    axis = g.number(1, x.rank - 1)
    first, back = forward(g, x, axis)
    branch, _ = forward(g, project(g, x, x.channels), axis)
    indices = np.asarray(chosen(g, x.shape[axis], repeats=False), np.int64)[:, None]
    updates = g.op("Slice", branch, g.ints(0), g.ints(len(indices)), g.ints(0))
    given = g.constant(indices)
    if g.chance(30):
        given = g.op("Identity", given)
    return g.op("Transpose", g.op("ScatterND", first, given, updates), perm=back)


@block("ScatterND of a region", on="image")
def assign(g: Sketch, x: Value) -> Value:
    """x[:, channels, rows] = y, as exporters write it: an index for every entry of a grid."""
    channels = sorted(entry % x.channels for entry in chosen(g, x.channels, repeats=False))
    rows = sorted(entry % x.space[0] for entry in chosen(g, x.space[0], repeats=False))
    branch = project(g, x, x.channels)
    if g.dynamic:
        front = g.op("Transpose", x, perm=(1, 2, 0, *range(3, x.rank)))
        branch = g.op("Transpose", branch, perm=(1, 2, 0, *range(3, x.rank)))
        axes = [channels, rows]
    else:
        front, axes = x, [list(range(x.shape[0])), channels, rows]
    for axis, entries in enumerate(axes):
        branch = g.op("Slice", branch, g.ints(0), g.ints(len(entries)), g.ints(axis))
    indices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.int64)
    y = g.op("ScatterND", front, g.constant(indices), branch)
    return g.op("Transpose", y, perm=(2, 0, 1, *range(3, x.rank))) if g.dynamic else y


@block("Compress", on="any", rare=True)
def compress(g: Sketch, x: Value) -> Value:
    axis = g.number(1, x.rank - 1)
    condition = np.asarray([g.chance(60) for _ in range(x.shape[axis] - g.number(0, 1))], bool)
    if not condition.any():
        condition = np.asarray([True])
    shape = [int(condition.sum()) if k == axis else size for k, size in enumerate(x.shape)]
    return g.op("Compress", x, g.constant(condition), axis=axis, shape=shape)


@block("OneHot", on="any", rare=True)
def one_hot(g: Sketch, x: Value) -> Value:
    """Which of three classes x would be in if it were 0, scored by a layer."""
    classes = g.op("Cast", g.op("Mul", x, g.constant(np.float32(0))), to=TensorProto.INT64)
    values = g.constant(np.float32([0.2, 1]))
    hot = g.op("OneHot", classes, g.constant(np.int64(3)), values, axis=-1, shape=(*x.shape, 3))
    score = g.op("MatMul", Value(hot.name, hot.shape), g.weight((3,), fan_in=3), shape=x.shape)
    return g.op("Add", x, score, layout=x.layout)


@block("EyeLike", on="vector", rare=True)
def eye(g: Sketch, x: Value) -> Value:
    return g.op("Add", x, g.op("EyeLike", x))


@block("Size", on="any", rare=True)
def by_size(g: Sketch, x: Value) -> Value:
    count = g.op("Cast", g.op("Size", x), to=TensorProto.FLOAT)
    return g.op("Add", x, g.op("Sqrt", g.op("Reciprocal", count)), layout=x.layout)


@block("Gather by a table of indices", on="any")
def gather_table(g: Sketch, x: Value) -> Value:
    """Patches that overlap: an axis becomes two, then the mean over one of them."""
    axis = g.number(1, x.rank - 1)
    size = x.shape[axis]
    width = g.number(1, min(size, 3))
    table = np.arange(size - width + 1)[:, None] + np.arange(width)[None]
    y = g.op("Gather", x, g.constant(table.astype(np.int64)), axis=axis)
    return mean(g, y, g.pick([axis, axis + 1]) if size > width else axis + 1)


# ---- sequences


def split_sequence(g: Sketch, x: Value, axis: int) -> tuple[list[Value], str]:
    """x in a sequence of pieces, and what the pieces are."""
    size = x.shape[axis]
    step = g.number(1, size)
    sizes = [min(step, size - start) for start in range(0, size, step)]
    split = g.constant(np.int64(step)) if g.chance(50) else g.ints(*sizes)
    name = g.op("SplitToSequence", x, split, axis=axis, shape=()).name
    pieces = [Value("", (*x.shape[:axis], n, *x.shape[axis + 1 :]), x.layout, x.rms) for n in sizes]
    return pieces, name


def at(g: Sketch, sequence: str, position: int, piece: Value) -> Value:
    place = g.constant(np.int64(position))
    return g.op(
        "SequenceAt", Value(sequence, ()), place, shape=piece.shape, layout=piece.layout, rms=piece.rms
    )


@block("SplitToSequence", on="any")
def split_to_sequence(g: Sketch, x: Value) -> Value:
    """Cut into pieces, some of which go on through a layer, and joined again."""
    axis = g.number(1, x.rank - 1)
    pieces, name = split_sequence(g, x, axis)
    taken = [at(g, name, k - len(pieces) if g.chance(20) else k, piece) for k, piece in enumerate(pieces)]
    if g.chance(50):
        return g.op("Concat", *reversed(taken), axis=axis, shape=x.shape)
    return taken[g.number(0, len(taken) - 1)]


@block("ConcatFromSequence", on="any")
def concat_from_sequence(g: Sketch, x: Value) -> Value:
    """A branch off x beside it or stacked upon it."""
    other = project(g, x, x.channels)
    if g.chance(50):
        parts = [Value(v.name, v.shape) for v in (x, other)]
        sequence = g.op("SequenceConstruct", *parts, shape=())
    else:
        empty = g.op("SequenceEmpty", shape=())
        sequence = g.op("SequenceInsert", empty, other, shape=())
        sequence = g.op("SequenceInsert", sequence, x, g.constant(np.int64(0)), shape=())
    if g.chance(60):
        shape = tuple(2 * size if k == x.axis else size for k, size in enumerate(x.shape))
        return g.op("ConcatFromSequence", sequence, axis=x.axis, shape=shape, layout=x.layout)
    stacked = (*x.shape[:1], 2, *x.shape[1:])
    y = g.op("ConcatFromSequence", sequence, axis=1, new_axis=1, shape=stacked, layout="image")
    return g.op("Identity", mean(g, y, 1), layout=x.layout)


@block("unbind by a sequence", on="tokens")
def unbind(g: Sketch, x: Value) -> Value:
    """Tokens one by one, without their axis."""
    sequence = g.op("SplitToSequence", x, axis=1, keepdims=0, shape=())
    taken = [
        at(g, sequence.name, k, Value("", (x.shape[0], x.channels), "vector")) for k in range(x.shape[1])
    ]
    total = g.op("Add", taken[0], taken[-1])
    return unsqueeze(g, total, 1) if g.chance(20) else total
