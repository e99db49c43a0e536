"""Reductions over space, over the channels, over both."""

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import project, with_axes

SINCE = {"ReduceSum": 13}  # axes became an input; 18 for all others


def reduction(g: Sketch, x: Value, kind: str, axes: list[int], keepdims: int) -> Value:
    """The op, then for sums a factor that brings the size back: both are ops under test."""
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if g.chance(30):
        axes = [axis - x.rank for axis in axes]
    if kind == "ReduceLogSum":
        x = g.op("Softplus", x)
    y = with_axes(g, kind, x, axes, since=SINCE.get(kind, 18), keepdims=keepdims)
    if kind in ("ReduceSum", "ReduceL1", "ReduceSumSquare", "ReduceL2"):
        power = {"ReduceSumSquare": 1.0, "ReduceL1": 1.0}.get(kind, 0.5)
        y = g.op("Mul", y, g.constant(np.float32(count**-power)))
    return y


def over(kind: str) -> None:
    @block(kind, on="image")
    def over_space(g: Sketch, x: Value) -> Value:
        axes = list(range(2, x.rank))
        if len(axes) > 1 and g.chance(30):
            axes = [g.pick(axes)]
        return reduction(g, x, kind, axes, g.number(0, 1))

    @block(f"{kind} over channels", on="any")
    def over_channels(g: Sketch, x: Value) -> Value:
        """Kept as one channel and mixed anew, or (where enough is left) the axis gone."""
        keepdims = 1 if x.rank < 3 or g.chance(60) else 0
        y = reduction(g, x, kind, [x.axis], keepdims)
        return project(g, y, g.number(2, 6)) if keepdims and g.chance(50) else y


for _kind in (
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "ReduceLogSum",
):
    over(_kind)


@block("ReduceProd", on="image", rare=True)
def product(g: Sketch, x: Value) -> Value:
    """Of factors near one."""
    near_one = g.op(
        "Add", g.op("Mul", g.op("Tanh", x), g.constant(np.float32(0.1))), g.constant(np.float32(1))
    )
    return reduction(g, near_one, "ReduceProd", [x.rank - 1], 1)


@block("ReduceMean over everything but the batch", on="image")
def over_all(g: Sketch, x: Value) -> Value:
    one = reduction(g, x, g.pick(["ReduceMean", "ReduceSum"]), list(range(1, x.rank)), 1)
    return g.op("Add", x, one)
