"""Gemm, MatMul, Softmax and attention."""

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import divisible, project, reshape


@block("Gemm", on="vector")
def gemm(g: Sketch, x: Value) -> Value:
    """transA, transB, alpha, beta, and C of rank 0, 1, 2 or none."""
    out = g.number(2, 12)
    scaled = {"alpha": 0.7} if g.chance(25) else {}
    trans_a, trans_b = g.chance(25), g.chance(50)
    shape = (out, x.channels) if trans_b else (x.channels, out)
    operands = [g.op("Transpose", x, perm=(1, 0)) if trans_a else x]
    operands.append(g.weight(shape, fan_in=x.channels, rms=x.rms))
    form = g.pick(["vector", "row", "scalar", "one", "none", "column"])
    forms = {"vector": (out,), "row": (1, out), "scalar": (), "one": (1,), "column": (1, 1)}
    if form != "none":
        operands.append(g.constant(g.random(forms[form], 0.3), "bias"))
        scaled |= {"beta": 1.3} if g.chance(25) else {}
    flags = {"transA": 1} if trans_a else {}
    flags |= {"transB": 1} if trans_b else {}
    return g.op("Gemm", *operands, rms=1, **scaled, **flags)


@block("Gemm Relu Gemm", on="vector")
def perceptron(g: Sketch, x: Value) -> Value:
    return project(g, g.op("Relu", project(g, x, g.number(4, 12)), rms=0.7), g.number(2, 8))


@block("MatMul", on="vector")
def matmul(g: Sketch, x: Value) -> Value:
    out = g.number(2, 12)
    y = g.op("MatMul", x, g.weight((x.channels, out), fan_in=x.channels, rms=x.rms), rms=1)
    return g.op("Add", y, g.weight((out,))) if g.chance(60) else y


@block("MatMul of tokens", on="tokens")
def feed_forward(g: Sketch, x: Value) -> Value:
    inner = g.op("Relu", project(g, x, g.number(2, 10)), rms=0.7)
    return g.op("Add", x, project(g, inner, x.channels), rms=1.4) if g.chance(60) else inner


@block("MatMul from the left", on="tokens")
def token_mixing(g: Sketch, x: Value) -> Value:
    """MLP-Mixer: the tokens are mixed, the channels are not."""
    length = x.shape[1]
    out = g.pick([length, g.number(2, 6)])
    return g.op("MatMul", g.weight((out, length), fan_in=length, rms=x.rms), x, layout="tokens", rms=1)


@block("MatMul batched", on="tokens", rare=True)
def batched(g: Sketch, x: Value) -> Value:
    """One weight per head, (h, c, d): the heads are a batch axis of the product."""
    heads = g.number(2, 3)
    x = divisible(g, x, heads)
    batch, length, width = x.shape[0], x.shape[1], x.channels // heads
    apart = g.op("Transpose", reshape(g, x, batch, length, heads, width), perm=(0, 2, 1, 3))
    out = g.number(2, 4)
    mixed = g.op("MatMul", apart, g.weight((heads, width, out), fan_in=width, rms=x.rms), rms=1)
    return joined(g, mixed)


def joined(g: Sketch, x: Value) -> Value:
    """(N, h, T, d) to tokens (N, T, h d)."""
    batch, heads, length, width = x.shape
    back = g.op("Transpose", x, perm=(0, 2, 1, 3))
    return reshape(g, back, batch, length, heads * width, layout="tokens")


@block("attention", on="tokens")
def attention(g: Sketch, x: Value) -> Value:
    """Query, key and value by three layers or by one that is split; heads by Reshape and Transpose."""
    heads = g.number(1, 3)
    width = heads * g.number(1, 3)
    batch, length = x.shape[:2]
    if g.chance(50):
        parts = [project(g, x, width) for _ in range(3)]
    else:
        both = project(g, x, 3 * width)
        ends = range(0, 3 * width, width)
        parts = [g.op("Slice", both, g.ints(i), g.ints(i + width), g.ints(2), layout="tokens") for i in ends]
    rows = [reshape(g, part, batch, length, heads, width // heads) for part in parts]
    query, value = (g.op("Transpose", rows[i], perm=(0, 2, 1, 3)) for i in (0, 2))
    key = g.op("Transpose", rows[1], perm=(0, 2, 3, 1))
    scale = g.constant(np.float32((width // heads) ** -0.5))
    if g.chance(50):
        scores = g.op("Mul", g.op("MatMul", query, key), scale)
    else:
        scores = g.op("MatMul", g.op("Mul", query, scale), key)
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=3), value)
    return project(g, joined(g, mixed), x.channels if g.chance(60) else g.number(2, 8))


@block("attention of packed heads", on="tokens", rare=True)
def packed_attention(g: Sketch, x: Value) -> Value:
    """timm: one layer, reshaped to (N, T, 3, h, d), transposed, and unbound by Gather."""
    heads, width = g.number(1, 2), g.number(1, 3)
    batch, length = x.shape[:2]
    both = reshape(g, project(g, x, 3 * heads * width), batch, length, 3, heads, width)
    both = g.op("Transpose", both, perm=(2, 0, 3, 1, 4))
    query, key, value = (g.op("Gather", both, g.constant(np.int64(i)), axis=0) for i in range(3))
    scores = g.op("MatMul", query, g.op("Transpose", key, perm=(0, 1, 3, 2)))
    return project(g, joined(g, g.op("MatMul", g.op("Softmax", scores, axis=-1), value)), x.channels)


@block("attention over channels", on="tokens", rare=True)
def channel_attention(g: Sketch, x: Value) -> Value:
    """XCiT: the scores are channels by channels."""
    other = g.op("Transpose", project(g, x, g.number(2, 5)), perm=(0, 2, 1))
    scores = g.op("Mul", g.op("MatMul", other, x), g.constant(np.float32(1 / x.shape[1])))
    weights = g.op("Softmax", scores, axis=2)
    return g.op("MatMul", x, g.op("Transpose", weights, perm=(0, 2, 1)), layout="tokens")


@block("MatMul of two images", on="image", rare=True)
def non_local(g: Sketch, x: Value) -> Value:
    """Non-local block: positions by positions, through flattened space."""
    batch, space = x.shape[0], int(np.prod(x.space))
    inner = g.number(2, 4)
    query, key = (reshape(g, project(g, x, inner), batch, inner, space) for _ in range(2))
    scores = g.op("MatMul", g.op("Transpose", query, perm=(0, 2, 1)), key)
    weights = g.op("Softmax", scores, axis=2)
    flat = reshape(g, x, *x.shape[:2], space)
    mixed = g.op("MatMul", flat, g.op("Transpose", weights, perm=(0, 2, 1)))
    return g.op("Add", x, reshape(g, mixed, *x.shape))


@block("Softmax", on="any")
def softmax(g: Sketch, x: Value) -> Value:
    """Over the channels or the last axis; before opset 13 over everything from the axis on."""
    axis = g.pick([x.axis, x.rank - 1, -1])
    kind = g.pick(["Softmax", "Softmax", "LogSoftmax"])
    attributes = {} if g.chance(20) else {"axis": axis}
    y = g.op(kind, x, rms=0.4 if kind == "Softmax" else 2.0, **attributes)
    return g.op("Mul", y, g.constant(np.float32(3))) if kind == "Softmax" and g.chance(40) else y


@block("Einsum", on="tokens", since=12, rare=True)
def einsum(g: Sketch, x: Value) -> Value:
    out = g.number(2, 8)
    weight = g.weight((x.channels, out), fan_in=x.channels, rms=x.rms)
    return g.op("Einsum", x, weight, equation="btc,cd->btd", layout="tokens", rms=1)
