"""Functions of several tensors, entry by entry, with broadcasting of every rank."""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import mean, partner, project, unsqueeze, with_axes


def beside(g: Sketch, x: Value) -> tuple[int, ...]:
    """A shape that broadcasts to x without growing it; the batch axis is 1 or absent."""
    rank = x.rank
    channel = [x.channels if i == x.axis else 1 for i in range(rank)]
    forms: list[tuple[int, ...]] = [
        tuple(channel[1:]),  # (C, 1, 1), or (1, C) and (C,) where the channels are last
        (),
        (1,),
        tuple(channel),  # (1, C, 1, 1)
        x.shape[1:],
        (1, *x.shape[1:]),
        x.shape[2:] or (1,),
        tuple(1 for _ in range(rank)),
        tuple(x.shape[i] if i != x.axis and i else 1 for i in range(rank)),
    ]
    if x.axis == rank - 1:
        forms.insert(0, (x.channels,))
    return g.pick(forms)


def signs(g: Sketch, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return (array * g.rng.choice([-1, 1], array.shape)).astype(np.float32)


@block("arithmetic with a constant", on="any")
def with_constant(g: Sketch, x: Value) -> Value:
    kind, shape = g.pick(["Add", "Mul", "Sub", "Div"]), beside(g, x)
    array = g.random(shape, 0.4) if kind in ("Add", "Sub") else signs(g, g.uniform(shape, 0.6, 1.5))
    operands = [x, g.constant(array, "operand")]
    if kind != "Div" and g.chance(40):
        operands.reverse()
    return g.op(kind, *operands, layout=x.layout, rms=x.rms)


@block("Max, Min, Sum, Mean with a constant", on="any")
def extremes(g: Sketch, x: Value) -> Value:
    operands = [x, g.constant(g.random(beside(g, x), 0.5), "operand")]
    kind = g.pick(["Max", "Min", "Sum", "Mean"])
    return g.op(kind, *g.pick([operands, operands[::-1]]), layout=x.layout, rms=x.rms)


@block("Pow", on="any")
def power(g: Sketch, x: Value) -> Value:
    """A square of something bounded, or an exponent per channel of something positive."""
    if g.chance(50):
        return g.op("Pow", g.op("Tanh", x), g.constant(np.float32(2)), rms=0.4)
    exponent = g.constant(g.uniform(beside(g, x), 0.5, 2.5), "exponent")
    positive = g.op("Add", g.op("Sigmoid", x), g.constant(np.float32(0.2)))
    return g.op("Pow", positive, exponent, layout=x.layout, rms=0.8)


@block("Where with a constant mask", on="any")
def masked(g: Sketch, x: Value) -> Value:
    mask = g.constant(g.rng.random(beside(g, x)) < 0.6, "mask")
    other = g.constant(g.random(beside(g, x), 0.5), "operand") if g.chance(60) else partner(g, x)
    operands = g.pick([(x, other), (other, x)])
    return g.op("Where", mask, *operands, layout=x.layout, rms=x.rms)


@block("Where by comparison", on="any")
def compared(g: Sketch, x: Value) -> Value:
    """Both branches meet at the threshold, so that a rounding of x cannot make a jump."""
    level = g.constant(g.random(beside(g, x), 0.3), "level")
    above = g.op(
        g.pick(["Greater", "GreaterOrEqual"] if g.opset >= 12 else ["Greater"]),
        x,
        level,
        shape=x.shape,
        elem=TensorProto.BOOL,
    )
    slope = g.op("Add", level, g.op("Mul", g.op("Sub", x, level), g.constant(np.float32(0.2))))
    return g.op("Where", above, x, slope, layout=x.layout, rms=0.8 * x.rms)


@block("Add, Sub, Max, Min, Sum, Mean of two", on="any")
def joined(g: Sketch, x: Value) -> Value:
    kind = g.pick(["Add", "Sub", "Max", "Min", "Sum", "Mean"])
    operands = [x, partner(g, x)]
    if kind in ("Max", "Sum", "Mean") and g.chance(40):
        operands.append(partner(g, x))
    if g.chance(30):
        operands.reverse()
    return g.op(kind, *operands, rms=1.4 * x.rms if kind in ("Add", "Sub", "Sum") else x.rms)


@block("Mul and Div of two", on="any")
def multiplied(g: Sketch, x: Value) -> Value:
    other = partner(g, x)
    if g.chance(50):
        return g.op("Mul", x, g.op(g.pick(["Sigmoid", "Tanh"]), other), rms=0.6 * x.rms)
    below = g.op("Add", g.op("Softplus", other), g.constant(np.float32(0.5)))
    return g.op("Div", x, below, rms=0.8 * x.rms)


@block("squeeze and excitation", on="image")
def squeeze_excite(g: Sketch, x: Value) -> Value:
    narrow = g.op("Relu", project(g, g.op("GlobalAveragePool", x), g.number(2, 4)))
    gate = g.op(g.pick(["Sigmoid", "HardSigmoid"]), project(g, narrow, x.channels))
    return g.op("Mul", *g.pick([(x, gate), (gate, x)]), rms=0.6 * x.rms)


@block("squeeze and excitation by Gemm", on="image")
def squeeze_excite_gemm(g: Sketch, x: Value) -> Value:
    vector = mean(g, x, *range(2, x.rank))
    gate = g.op("Sigmoid", project(g, g.op("Relu", project(g, vector, g.number(2, 4))), x.channels))
    return g.op("Mul", x, unsqueeze(g, gate, *range(2, x.rank)), rms=0.6 * x.rms)


@block("spatial attention", on="image")
def spatial_attention(g: Sketch, x: Value) -> Value:
    """One map for all channels: (N, 1, *S) broadcast along the channel axis."""
    gate = g.op("Sigmoid", with_axes(g, "ReduceMax", x, [1], since=18, keepdims=1))
    return g.op("Mul", x, gate, rms=0.6 * x.rms)


@block("broadcast of one channel", on="image")
def spread(g: Sketch, x: Value) -> Value:
    """One channel, spread to several by a constant or by a second value."""
    one = project(g, x, 1)
    if g.chance(50):
        return g.op("Mul", one, g.constant(g.random((g.number(2, 6), *(1 for _ in x.space)))))
    return g.op("Add", one, x, rms=1.4 * x.rms)


@block("feature-wise modulation", on="image")
def modulate(g: Sketch, x: Value) -> Value:
    """Scale and shift per channel, computed from any vector of the graph."""
    vectors = [value for value in g.pool if value.layout == "vector"]
    source = g.pick(vectors) if vectors else mean(g, x, *range(2, x.rank))
    axes = range(2, x.rank)
    scale = unsqueeze(g, g.op("Tanh", project(g, source, x.channels)), *axes)
    return g.op("Add", g.op("Mul", x, scale), unsqueeze(g, project(g, source, x.channels), *axes), rms=1.2)
