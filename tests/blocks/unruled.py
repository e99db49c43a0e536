"""Ops that (as yet) have no axis rule: what they touch is frozen, and nothing may break around them."""

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import roomy


@block("CumSum", on="any")
def cumulative(g: Sketch, x: Value) -> Value:
    axis = g.number(1, x.rank - 1)
    total = g.op("CumSum", x, g.constant(np.int64(axis)))
    return g.op("Mul", total, g.constant(np.float32(x.shape[axis] ** -0.5)))


@block("TopK", on="any", rare=True)
def top(g: Sketch, x: Value) -> Value:
    """The values only: they are continuous, the indices are not."""
    axis = g.number(1, x.rank - 1)
    count = g.number(1, min(x.shape[axis], 3))
    return g.ops("TopK", x, g.ints(count), count=2, axis=axis)[0]


@block("LRN", on="image", rare=True)
def local_response(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2:
        return g.op("Identity", x)
    return g.op("LRN", x, size=3, alpha=0.1, beta=0.5)


@block("Trilu", on="tokens", since=14, rare=True)
def triangle(g: Sketch, x: Value) -> Value:
    return g.op("Trilu", x, upper=0)


@block("ReverseSequence", on="image", rare=True)
def reverse(g: Sketch, x: Value) -> Value:
    """Backwards along the channels, each sample by the same length."""
    size = g.op("Shape", x)
    batch = g.op("Slice", size, g.ints(0), g.ints(1), g.ints(0))
    lengths = g.op("Expand", g.ints(max(1, x.channels - 1)), batch, shape=(x.shape[0],))
    return g.op("ReverseSequence", x, lengths, batch_axis=0, time_axis=1)


@block("GridSample", on="image", since=16, rare=True)
def grid_sample(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2 or g.dynamic:
        return g.op("Identity", x)
    x = roomy(g, x)
    grid = g.constant(g.uniform((x.shape[0], 3, 3, 2), -0.9, 0.9), "grid")
    return g.op("GridSample", x, grid, align_corners=1, shape=(*x.shape[:2], 3, 3))


@block("ScatterElements", on="any", rare=True)
def scatter(g: Sketch, x: Value) -> Value:
    """Not reached by the batch: adds a constant to the first row of a bias."""
    shape = x.shape[1:]
    indices = g.constant(np.zeros((1, *shape[1:]), np.int64), "indices")
    updates = g.constant(g.random((1, *shape[1:]), 0.5), "updates")
    bias = g.op("ScatterElements", g.constant(g.random(shape, 0.3), "bias"), indices, updates, axis=0)
    return g.op("Add", x, bias, layout=x.layout)


@block("If", on="any", rare=True)
def branches(g: Sketch, x: Value) -> Value:
    """Both branches read x from outside; the condition is known only when the model runs."""
    points = g.op("Size", x)
    condition = g.op("Greater", points, g.constant(np.int64(g.pick([0, 10**6]))))
    bodies = []
    for kind in ("Tanh", "Neg"):
        name = f"{g.fresh('branch')}_{kind.lower()}"
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([helper.make_node(kind, [x.name], [name])], kind, [], [output]))
    y = g.op("If", condition, then_branch=bodies[0], else_branch=bodies[1], shape=x.shape)
    return Value(y.name, x.shape, x.layout, x.rms)
