"""Ops that (as yet) have no axis rule: what they touch is frozen, and nothing may break around them."""

import numpy as np
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


