"""Ops that onnxruntime writes into the models that it optimises."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from sketch import Sketch, Value

from blocks.attention import heads_apart, heads_together
from blocks.norm import scale_and_shift
from blocks.registry import block
from blocks.ways import divisible, mean, partner, project, reshape, roomy, with_axes

DOMAIN = "com.microsoft"


def fused(g: Sketch, kind: str, *operands: Value | None, shape: Sequence[int], **attributes: Any) -> Value:
    return several(g, kind, *operands, count=1, shape=shape, **attributes)[0]


def several(
    g: Sketch, kind: str, *operands: Value | None, count: int, shape: Sequence[int], **attributes: Any
) -> list[Value]:
    """Outputs that all are said to have this shape."""
    if not any(entry.domain == DOMAIN for entry in g.opsets):
        g.opsets.append(helper.make_opsetid(DOMAIN, 1))
    return g.ops(kind, *operands, count=count, shape=shape, domain=DOMAIN, **attributes)


@block("Gelu and its kin", on="any", rare=True)
def gelu(g: Sketch, x: Value) -> Value:
    kind = g.pick(["Gelu", "QuickGelu", "FastGelu"])
    return fused(g, kind, x, shape=x.shape, rms=0.6 * x.rms, **({"alpha": 1.7} if kind == "QuickGelu" else {}))


@block("BiasGelu", on="tokens")
def bias_gelu(g: Sketch, x: Value) -> Value:
    wide = g.op("MatMul", x, g.weight((x.channels, n := g.number(2, 8)), fan_in=x.channels, rms=x.rms), rms=1)
    made = fused(g, g.pick(["BiasGelu", "FastGelu"]), wide, g.weight((n,)), shape=wide.shape, rms=0.6)
    return project(g, made, x.channels)


@block("FusedConv", on="image")
def fused_conv(g: Sketch, x: Value) -> Value:
    """With groups, a sum, and an activation; bordered so that the size stays."""
    groups = g.pick([1, 1, 2, x.channels])
    x = divisible(g, roomy(g, x), groups if x.channels % groups == 0 else 1) if groups != x.channels else roomy(g, x)
    groups = groups if x.channels % groups == 0 else 1
    out = groups * g.number(1, 3)
    space = [3] * len(x.space)
    weight = g.weight((out, x.channels // groups, *space), fan_in=x.channels // groups * 3 ** len(space), rms=x.rms)
    operands: list[Value | None] = [x, weight, g.weight((out,))]
    if g.chance(50):
        operands.append(project(g, x, out))
    activation: dict[str, Any] = g.pick(
        [{"activation": "Relu"}, {"activation": "LeakyRelu", "activation_params": [0.2]}, {"activation": "Tanh"}]
    )
    pads = [1] * (2 * len(space))
    shape = (x.shape[0], out, *x.space)
    return fused(g, "FusedConv", *operands, shape=shape, group=groups, pads=pads, rms=0.8, **activation)


@block("FusedGemm", on="vector", rare=True)
def fused_gemm(g: Sketch, x: Value) -> Value:
    out, across = g.number(2, 8), g.chance(50)
    weight = g.weight((out, x.channels) if across else (x.channels, out), fan_in=x.channels, rms=x.rms)
    attributes = {"transB": 1} if across else {}
    shape = (x.shape[0], out)
    return fused(g, "FusedGemm", x, weight, g.weight((out,)), shape=shape, activation="Relu", rms=0.7, **attributes)


@block("FusedMatMul", on="tokens")
def fused_matmul(g: Sketch, x: Value) -> Value:
    """Products of queries and keys by head, either of them transposed in any of the ways."""
    heads, width = g.number(1, 3), g.number(1, 3)
    batch, length, _ = x.shape
    query, key = (heads_apart(g, project(g, x, heads * width), heads) for _ in range(2))  # (N, h, T, d)
    attributes: dict[str, Any] = {"alpha": 0.5}
    if g.chance(30):
        query, attributes = g.op("Transpose", query, perm=(0, 1, 3, 2)), attributes | {"transA": 1}
    way = g.pick(["swapped", "plain", "batch"])
    if way == "plain":
        key = g.op("Transpose", key, perm=(0, 1, 3, 2))
    elif way == "batch" and not g.dynamic:  # (d, N, h, T)
        key, attributes = g.op("Transpose", key, perm=(3, 0, 1, 2)), attributes | {"transBatchB": 1}
    else:
        attributes |= {"transB": 1}
    kind = "FusedMatMul" if "transBatchB" in attributes or g.chance(80) else "TransposeMatMul"
    scores = fused(g, kind, query, key, shape=(batch, heads, length, length), rms=0.5, **attributes)
    value = heads_apart(g, project(g, x, heads * width), heads)
    return heads_together(g, g.op("MatMul", g.op("Softmax", scores, axis=3), value, rms=0.7))


@block("SkipLayerNormalization", on="tokens")
def skip_norm(g: Sketch, x: Value) -> Value | list[Value]:
    """With or without a shift, a bias, and the sum as an output of its own."""
    simplified = g.chance(30)
    skip = partner(g, x)
    if g.chance(20):
        skip = g.constant(g.random(x.shape[1:], 0.5), "skip")
    scale, shift = scale_and_shift(g, x.channels)
    bias = g.weight((x.channels,)) if g.chance(40) else None
    operands = [x, skip, scale] + ([] if simplified else [shift if g.chance(80) else None]) + [bias]
    while operands[-1] is None:
        operands.pop()
    kind = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
    if g.chance(50):
        return fused(g, kind, *operands, shape=x.shape, rms=1, epsilon=0.05)
    normed, total = with_sum(g, kind, operands, x)
    return [normed, total]


def with_sum(g: Sketch, kind: str, operands: Sequence[Value | None], x: Value) -> list[Value]:
    """Outputs 0 and 3; the two between them are left out."""
    normed, *_, total = several(g, kind, *operands, count=4, shape=x.shape, rms=1, epsilon=0.05)
    node = g.nodes[-1]
    node.output[1] = node.output[2] = ""
    return [normed, total]


@block("EmbedLayerNormalization", on="tokens", rare=True)
def embedding(g: Sketch, x: Value) -> Value:
    """Word numbers are made of the tokens, so that the graph needs no input of integers."""
    batch, length, _ = x.shape
    channels, words = g.number(2, 8), 5
    size = with_axes(g, "ReduceL1", x, [2], since=18, keepdims=0)
    ids, kinds = (
        g.op("Cast", g.op("Min", size, g.constant(np.float32(n - 0.5))), to=TensorProto.INT32) for n in (words, 2)
    )
    word, place, segment = (g.constant(g.random((n, channels), 0.6), "table") for n in (words, length + 2, 2))
    operands = [ids, *([kinds, word, place, segment] if g.chance(50) else [None, word, place, None])]
    operands += scale_and_shift(g, channels)
    shape = (batch, length, channels)
    made = several(g, "EmbedLayerNormalization", *operands, count=2, shape=shape, elem=1, rms=1, epsilon=0.05)[0]
    return Value(made.name, shape, "tokens", 1.0, TensorProto.FLOAT)


@block("Attention of onnxruntime", on="tokens")
def packed_attention(g: Sketch, x: Value) -> Value:
    """The projections are weights of the op."""
    heads, inner = g.number(1, 3), g.number(1, 4)
    outer = g.pick([inner, g.number(1, 4)])
    batch, length, channels = x.shape
    width = heads * (2 * inner + outer)
    weight, bias = g.weight((channels, width), fan_in=channels, rms=x.rms), g.weight((width,))
    attributes: dict[str, Any] = {"num_heads": heads}
    if inner != outer or g.chance(30):
        attributes["qkv_hidden_sizes"] = [heads * inner, heads * inner, heads * outer]
    attributes |= {"scale": 0.4} if g.chance(25) else {}
    attributes |= {"unidirectional": 1} if g.chance(25) else {}
    operands: list[Value | None] = [x, weight, bias]
    if g.chance(40):
        across = g.pick([1, heads])
        operands += [None, None, g.constant(g.random((1, across, length, length)), "added")]
    return fused(g, "Attention", *operands, shape=(batch, length, heads * outer), rms=0.6, **attributes)


@block("MultiHeadAttention", on="tokens")
def multi_head_attention(g: Sketch, x: Value) -> Value:
    """Keys and values flat or by head, biases inside or not."""
    heads, inner = g.number(1, 3), g.number(1, 4)
    unfolded = g.chance(30)
    outer = inner if unfolded else g.number(1, 4)
    batch, length, _ = x.shape
    query, key, value = (project(g, x, heads * n) for n in (inner, inner, outer))
    if unfolded:
        key, value = heads_apart(g, key, heads), heads_apart(g, value, heads)
    operands: list[Value | None] = [query, key, value]
    operands.append(g.weight((heads * (2 * inner + outer),)) if g.chance(50) else None)
    if g.chance(40):
        operands += [None, g.constant(g.random((1, g.pick([1, heads]), length, length)), "added")]
    while operands[-1] is None:
        operands.pop()
    attributes: dict[str, Any] = {"num_heads": heads} | ({"scale": 0.4} if g.chance(25) else {})
    return fused(g, "MultiHeadAttention", *operands, shape=(batch, length, heads * outer), rms=0.6, **attributes)


@block("GroupQueryAttention", on="tokens", rare=True)
def group_query_attention(g: Sketch, x: Value) -> Value:
    """Packed or not; the lengths are the same for all samples."""
    shared, groups, turned = g.number(1, 2), g.number(1, 3), g.chance(40)
    per_head = 16 if turned else 8  # multiples of these are what the op takes
    heads = shared * groups
    batch, length, _ = x.shape
    if g.dynamic:
        return project(g, x, x.channels)
    lengths = g.constant(np.full(batch, length - 1, np.int32))
    total = g.constant(np.int32(length))
    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": shared}
    if g.chance(30):
        operands = [project(g, x, (heads + 2 * shared) * per_head), None, None]
    else:
        operands = [project(g, x, n * per_head) for n in (heads, shared, shared)]
    operands += [None, None, lengths, total]
    if turned:
        attributes |= {"do_rotary": 1}
        angles = g.uniform((length + 2, per_head // 2), -2, 2)
        operands += [g.constant(np.cos(angles), "cache"), g.constant(np.sin(angles), "cache")]
    shape = (batch, length, heads * per_head)
    mixed = several(g, "GroupQueryAttention", *operands, count=3, shape=shape, rms=0.6, **attributes)[0]
    return project(g, mixed, x.channels)


@block("RotaryEmbedding of onnxruntime", on="tokens", rare=True)
def rotary(g: Sketch, x: Value) -> Value:
    heads, turns, passed = g.number(1, 3), g.number(1, 3), g.pick([0, 0, 2])
    x = project(g, x, heads * (2 * turns + passed))
    angles = g.uniform((x.shape[1] + 3, turns), -2, 2)
    caches = [g.constant(wave(angles), "cache") for wave in (np.cos, np.sin)]
    start = g.constant(np.array([g.number(0, 2)]), "start")
    attributes: dict[str, Any] = {"num_heads": heads} if passed or g.chance(50) else {}
    attributes |= {"rotary_embedding_dim": 2 * turns} if passed else {}
    attributes |= {"interleaved": 1} if g.chance(40) else {}
    if g.chance(50):
        return fused(g, "RotaryEmbedding", x, start, *caches, shape=x.shape, **attributes)
    apart = heads_apart(g, x, heads)
    return heads_together(g, fused(g, "RotaryEmbedding", apart, start, *caches, shape=apart.shape, **attributes))


@block("LinearAttention of onnxruntime", on="tokens", rare=True)
def linear_attention(g: Sketch, x: Value) -> Value | list[Value]:
    """All four rules; a decay per head or per channel; a state to begin with or none, and what is left of it."""
    shared, groups, inner, outer = g.number(1, 3), g.number(1, 2), g.number(1, 4), g.number(1, 4)
    heads = shared * groups
    batch, length, _ = x.shape
    rule = g.pick(["linear", "gated", "delta", "gated_delta"])
    query, key, value = (project(g, x, n) for n in (heads * inner, shared * inner, shared * outer))
    key = g.op("Mul", g.op("Tanh", key), g.constant(np.float32(inner**-0.5)))
    operands: list[Value | None] = [query, key, value, None, None, None]
    if g.chance(40):
        state = mean(g, project(g, x, shared * inner * outer), 1)
        operands[3] = reshape(g, state, batch, shared, inner, outer)
    if "gated" in rule:
        decay = project(g, x, shared * g.pick([1, inner]))
        operands[4] = g.op("Neg", g.op("Sigmoid", decay))
    if "delta" in rule:
        operands[5] = g.op("Sigmoid", project(g, x, g.pick([1, shared])))
    while operands[-1] is None:
        operands.pop()
    counts = {"q_num_heads": heads, "kv_num_heads": shared}
    shape = (batch, length, heads * outer)
    mixed, left = several(
        g, "LinearAttention", *operands, count=2, shape=shape, rms=0.8, update_rule=rule, **counts
    )
    if g.chance(60):
        return mixed
    left = Value(left.name, (batch, shared, inner, outer), "image")
    return [mixed, reshape(g, left, batch, shared * inner, outer, layout="tokens")]
