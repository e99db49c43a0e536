"""LSTM, GRU and RNN, as the exporters of torch and Keras write what stands around them."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import extent, project, squeeze, token_mean, unsqueeze, with_axes

ROWS = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Rows of W and R per hidden channel."""
ACTIVATIONS: dict[str, list[tuple[list[str], list[float], list[float]]]] = {
    "LSTM": [
        (["Sigmoid", "Tanh", "Tanh"], [], []),
        (["HardSigmoid", "Softsign", "Tanh"], [0.25], [0.4]),
        (["Sigmoid", "LeakyRelu", "Relu"], [0.1], []),
    ],
    "GRU": [
        (["Sigmoid", "Tanh"], [], []),
        (["HardSigmoid", "Softsign"], [0.25], [0.4]),
        (["Sigmoid", "Relu"], [], []),
    ],
    "RNN": [(["Tanh"], [], []), (["Relu"], [], []), (["Softsign"], [], [])],
}
"""Names, alphas and betas for one direction."""


def layer(g: Sketch, kind: str, x: Value, hidden: int, states: list[Value] | None = None) -> list[Value]:
    """Y, Y_h and for LSTM Y_c of one layer on x (T N I), from these states or of its own making."""
    way = g.pick(["forward", "forward", "reverse", "bidirectional", "bidirectional"])
    if states is not None:
        way = "bidirectional" if states[0].shape[0] == 2 else g.pick(["forward", "reverse"])
    directions = 2 if way == "bidirectional" else 1
    rows = ROWS[kind] * hidden
    operands: list[Value | None] = [
        x,
        g.weight((directions, rows, x.shape[2]), fan_in=x.shape[2], rms=x.rms),
        g.weight((directions, rows, hidden), fan_in=2 * hidden),
        g.weight((directions, 2 * rows)) if g.chance(75) else None,
        lengths(g, x) if g.chance(25) else None,
    ]
    if states is None and g.chance(60):
        states = initial(g, x, (directions, x.shape[1], hidden), 2 if kind == "LSTM" else 1)
    operands += states or []
    if kind == "LSTM" and g.chance(25):
        operands += [None] * (7 - len(operands))
        operands.append(g.constant(g.random((directions, 3 * hidden), 0.3), "peephole"))
    while operands[-1] is None:
        operands.pop()
    return g.ops(
        kind,
        *operands,
        count=3 if kind == "LSTM" else 2,
        rms=0.5,
        hidden_size=hidden,
        direction=way,
        **functions(g, kind, directions),
    )


def functions(g: Sketch, kind: str, directions: int) -> dict[str, Any]:
    """What happens within a step, as attributes."""
    chosen: dict[str, Any] = {"linear_before_reset": g.number(0, 1)} if kind == "GRU" else {}
    if kind == "LSTM" and g.chance(15):
        chosen["input_forget"] = 1
    if g.chance(40):
        names, alphas, betas = g.pick(ACTIVATIONS[kind])
        given = {"activations": names, "activation_alpha": alphas, "activation_beta": betas}
        chosen |= {name: values * directions for name, values in given.items() if values}
    if g.chance(15):
        chosen["clip"] = 2.0
    return chosen


def lengths(g: Sketch, x: Value) -> Value:
    """How many steps of each sample count."""
    steps, batch = x.shape[:2]
    if g.dynamic:
        number = g.constant(np.array([g.number(1, steps)], np.int32))
        return g.op("Expand", number, extent(g, x, 1), shape=(batch,))
    return g.constant(np.array([g.number(1, steps) for _ in range(batch)], np.int32))


def initial(g: Sketch, x: Value, shape: tuple[int, int, int], count: int) -> list[Value]:
    """States before the first step; the two of an LSTM may be one value."""
    ways = ["filled", "expanded", "computed"] if g.dynamic else ["zero", "constant", "filled", "computed"]
    made = [state(g, x, shape, g.pick(ways)) for _ in range(count)]
    return made[:1] * count if g.chance(30) else made


def state(g: Sketch, x: Value, shape: tuple[int, int, int], way: str) -> Value:
    directions, batch, hidden = shape
    match way:
        case "zero":
            return g.constant(np.zeros(shape, np.float32), "state")
        case "constant":
            return g.constant(g.random(shape, 0.3), "state")
        case "filled":
            value = helper.make_tensor("value", TensorProto.FLOAT, [1], [g.pick([0.0, 0.3])])
            return g.op(
                "ConstantOfShape", sizes(g, x, shape), shape=shape, elem=TensorProto.FLOAT, value=value
            )
        case "expanded":
            one = g.random((directions, 1, hidden), 0.3) if g.chance(50) else np.zeros((1, 1, 1), np.float32)
            return g.op("Expand", g.constant(one, "state"), sizes(g, x, shape), shape=shape)
    pooled = token_mean(g, g.op("Transpose", x, perm=(1, 0, 2), layout="tokens"))
    made = project(g, pooled, directions * hidden)
    if directions == 1:
        return unsqueeze(g, made, 0)
    parts = g.op("Reshape", made, g.ints(0, 2, hidden), shape=(batch, 2, hidden))
    return g.op("Transpose", parts, perm=(1, 0, 2))


def sizes(g: Sketch, x: Value, shape: tuple[int, int, int]) -> Value:
    """The shape of a state as a value, with the batch as x has it."""
    directions, _, hidden = shape
    return g.op("Concat", g.ints(directions), extent(g, x, 1), g.ints(hidden), axis=0)


def merged(g: Sketch, y: Value) -> Value:
    """Y (T D N H) as (T N D*H): Squeeze, or Transpose and Reshape."""
    steps, directions, batch, hidden = y.shape
    if directions == 1 and g.chance(60):
        return squeeze(g, y, 1)
    whole = (steps, batch, directions * hidden)
    beside = g.op("Transpose", y, perm=(0, 2, 1, 3))
    if g.chance(30):
        target = g.op("Concat", extent(g, beside, 0), extent(g, beside, 1), g.ints(-1), axis=0)
    else:
        target = g.ints(0, 0, g.pick([-1, whole[2]]))
    return g.op("Reshape", beside, target, shape=whole)


def summed(g: Sketch, y: Value) -> Value:
    """Y (T D N H) as (T N H), both directions added."""
    if y.shape[1] == 1:
        return squeeze(g, y, 1)
    if g.chance(30):
        joined = merged(g, y)
        apart = g.op("Reshape", joined, g.ints(0, 0, 2, -1), shape=(*joined.shape[:2], 2, y.shape[3]))
        return with_axes(g, "ReduceSum", apart, [2], since=13, keepdims=0)
    halves = [g.op("Gather", y, g.constant(np.int64(k)), axis=1) for k in range(2)]
    return g.op(g.pick(["Add", "Mul"]), *halves)


def last(g: Sketch, y: Value, y_h: Value) -> Value:
    """(N D*H): the last step, by Y_h or out of Y."""
    directions, batch, hidden = y_h.shape
    picked = g.op("Gather", y, g.constant(np.int64(-1)), axis=0) if g.chance(30) else y_h
    if directions == 1:
        return squeeze(g, picked, 0)
    beside = g.op("Transpose", picked, perm=(1, 0, 2))
    return g.op("Reshape", beside, g.ints(0, -1), shape=(batch, 2 * hidden))


def network(g: Sketch, kind: str, x: Value) -> Value:
    """One to three layers over the tokens, later ones maybe from the states of the one before."""
    steps = g.op("Transpose", x, perm=(1, 0, 2))
    hidden = g.number(2, 6)
    states = None
    for number in range(g.pick([1, 1, 2, 2, 3])):
        y, *after = layer(g, kind, steps, hidden, states)
        states = after if g.chance(40) else None
        hidden = hidden if states else g.number(2, 6)
        if number and g.chance(25) and y.shape[1] * y.shape[3] == steps.shape[2]:
            steps = g.op("Add", merged(g, y), steps)
        else:
            steps = summed(g, y) if g.chance(25) else merged(g, y)
    if g.chance(30):
        pooled = last(g, y, g.pick(after))
        return Value(pooled.name, pooled.shape, "vector", 0.5)
    return g.op("Transpose", steps, perm=(1, 0, 2), layout="tokens", rms=0.5)


@block("LSTM", on="tokens")
def lstm(g: Sketch, x: Value) -> Value:
    return network(g, "LSTM", x)


@block("GRU", on="tokens")
def gru(g: Sketch, x: Value) -> Value:
    return network(g, "GRU", x)


@block("RNN", on="tokens")
def rnn(g: Sketch, x: Value) -> Value:
    return network(g, "RNN", x)
