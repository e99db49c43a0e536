"""Functions of one tensor, entry by entry. None jumps: a jump turns a rounding into an error of any size."""

from typing import Any

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block

PLAIN: dict[str, tuple[dict[str, Any], float]] = {
    "Relu": ({}, 0.7),
    "LeakyRelu": ({"alpha": 0.1}, 0.7),
    "Sigmoid": ({}, 0.55),
    "Tanh": ({}, 0.6),
    "HardSigmoid": ({"alpha": 0.25, "beta": 0.4}, 0.5),
    "Elu": ({"alpha": 0.8}, 0.8),
    "Selu": ({}, 1.0),
    "Celu": ({"alpha": 0.7}, 0.8),
    "Softplus": ({}, 0.9),
    "Softsign": ({}, 0.4),
    "Erf": ({}, 0.6),
    "Abs": ({}, 1.0),
    "Neg": ({}, 1.0),
    "Sin": ({}, 0.6),
    "Cos": ({}, 0.7),
    "Atan": ({}, 0.6),
    "Identity": ({}, 1.0),
}
NEWER = {"Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20}


def plain(kind: str, attributes: dict[str, Any], rms: float) -> None:
    @block(kind, on="any", since=NEWER.get(kind, 11))
    def activation(g: Sketch, x: Value) -> Value:
        chosen = attributes if g.chance(50) else {}  # or the defaults
        return g.op(kind, x, rms=rms * min(x.rms, 1.5), **chosen)


for _kind, (_attributes, _rms) in PLAIN.items():
    plain(_kind, _attributes, _rms)
plain("HardSwish", {}, 0.7)
plain("Mish", {}, 0.7)
plain("Gelu", {"approximate": "tanh"}, 0.7)


def scalar(g: Sketch, number: float) -> Value:
    shape = g.pick([(), (), (1,)])
    return g.constant(np.full(shape, number, np.float32))


@block("PRelu", on="any")
def prelu(g: Sketch, x: Value) -> Value:
    """A slope per channel, laid out to broadcast, or one slope."""
    shape = [x.channels if i == x.axis else 1 for i in range(1, x.rank)]
    slope = g.random(shape, 0.2) if g.chance(75) else g.random((1,), 0.2)
    return g.op("PRelu", x, g.constant(slope, "slope"), rms=0.75 * x.rms)


@block("Clip", on="any")
def clip(g: Sketch, x: Value) -> Value:
    low, high = g.pick([(0.0, 6.0), (-1.0, 1.0), (None, 0.5), (-0.3, None)])
    bounds = [None if bound is None else g.constant(np.float32(bound)) for bound in (low, high)]
    return g.op("Clip", x, *bounds[: 1 if high is None else 2], rms=0.7 * x.rms)


@block("Shrink", on="any", rare=True)
def soft_shrink(g: Sketch, x: Value) -> Value:
    return g.op("Shrink", x, lambd=0.2, bias=0.2)


@block("Sqrt, Exp, Log, Reciprocal on their domains", on="any")
def on_domains(g: Sketch, x: Value) -> Value:
    match g.pick(["Sqrt", "Exp", "Log", "Reciprocal"]):
        case "Sqrt":
            return g.op("Sqrt", g.op("Add", g.op("Abs", x), scalar(g, 0.1)), rms=0.9)
        case "Exp":
            return g.op("Exp", g.op("Tanh", x), rms=1.3)
        case "Log":
            return g.op("Log", g.op("Add", g.op("Abs", x), scalar(g, 0.5)), rms=0.6)
    return g.op("Reciprocal", g.op("Add", g.op("Sigmoid", x), scalar(g, 0.5)), rms=1.1)


@block("Gelu written out", on="any")
def gelu(g: Sketch, x: Value) -> Value:
    inner = g.op("Erf", g.op("Div", x, scalar(g, 2**0.5)))
    return g.op("Mul", g.op("Mul", x, g.op("Add", inner, scalar(g, 1.0))), scalar(g, 0.5), rms=0.7 * x.rms)


@block("SiLU", on="any")
def silu(g: Sketch, x: Value) -> Value:
    gate = g.op("Sigmoid", x)
    return g.op("Mul", *g.pick([(x, gate), (gate, x)]), rms=0.7 * x.rms)


@block("HardSwish written out", on="any")
def hard_swish(g: Sketch, x: Value) -> Value:
    bounds = g.constant(np.float32(0)), g.constant(np.float32(6))
    gate = g.op("Div", g.op("Clip", g.op("Add", x, scalar(g, 3.0)), *bounds), scalar(g, 6.0))
    return g.op("Mul", x, gate, rms=0.7 * x.rms)


@block("Swish by a scaled Sigmoid and Softplus-Tanh", on="any", rare=True)
def mish_written_out(g: Sketch, x: Value) -> Value:
    return g.op("Mul", x, g.op("Tanh", g.op("Softplus", x)), rms=0.7 * x.rms)


@block("Cast", on="any")
def cast(g: Sketch, x: Value) -> Value:
    """To double and back: a cast to fewer bits would turn roundings into jumps."""
    double = g.op("Cast", x, to=11)
    if g.chance(50):
        double = g.op("Tanh", double)
    return g.op("Cast", double, to=1)


@block("CastLike", on="any", since=15)
def cast_like(g: Sketch, x: Value) -> Value:
    """torch's dynamo exporter, unoptimised, casts every operand to the type of the other."""
    if g.chance(50):
        return g.op("CastLike", g.op("Tanh", x, rms=0.6 * x.rms), x)
    scale = g.constant(g.uniform([x.channels if i == x.axis else 1 for i in range(1, x.rank)], 0.5, 1.5))
    return g.op("Mul", x, g.op("CastLike", scale, x))


@block("Dropout", on="any")
def dropout(g: Sketch, x: Value) -> Value:
    if g.opset < 12:
        return g.op("Dropout", x, ratio=0.3)
    return g.op("Dropout", x, *([g.constant(np.float32(0.3))] if g.chance(60) else []))
