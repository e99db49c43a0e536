"""Ops that (as yet) have no axis rule: what they touch is frozen, and nothing may break around them."""

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch, Value

from blocks.registry import block


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
