"""Attention, rotary embeddings and caches as ops of their own."""

import numpy as np
from sketch import Sketch, Value

from blocks.registry import block
from blocks.ways import mean, project, reshape


def heads_apart(g: Sketch, x: Value, heads: int) -> Value:
    """Tokens (N, T, h d) to (N, h, T, d)."""
    batch, length, width = x.shape
    return g.op("Transpose", reshape(g, x, batch, length, heads, width // heads), perm=(0, 2, 1, 3))


def heads_together(g: Sketch, x: Value) -> Value:
    """(N, h, T, d) to tokens (N, T, h d)."""
    batch, heads, length, width = x.shape
    back = g.op("Transpose", x, perm=(0, 2, 1, 3))
    return reshape(g, back, batch, length, heads * width, layout="tokens")


def mask(g: Sketch, x: Value, heads: int, total: int) -> Value:
    """Of rank 2 to 4, bool or added, with or without an axis of heads."""
    length = x.shape[1]
    shape = g.pick([(length, total), (1, length, total), (heads, length, total), (1, heads, length, total)])
    if g.chance(30):
        allowed = g.rng.random(shape) < 0.7
        allowed[..., 0] = True  # a row that may look nowhere is NaN in some versions
        return g.constant(allowed, "mask")
    return g.constant(g.random(shape), "mask")


@block("Attention", on="tokens", since=23)
def attention(g: Sketch, x: Value) -> Value:
    """Heads shared or not, of flat or of unfolded tokens, values as wide as keys or not, all its attributes."""
    shared, groups = g.number(1, 3), g.number(1, 3)
    heads, inner, outer = shared * groups, g.number(1, 4), g.number(1, 4)
    other = x if g.chance(60) else g.op("Neg", g.op("Concat", x, x, axis=1), layout="tokens")
    query, key = project(g, x, heads * inner), project(g, other, shared * inner)
    value = project(g, other, shared * outer)
    flat = g.chance(50)
    attributes = {"q_num_heads": heads, "kv_num_heads": shared} if flat else {}
    attributes |= {"scale": 0.4} if g.chance(25) else {}
    attributes |= {"softcap": 1.5} if g.chance(25) else {}
    attributes |= {"is_causal": 1} if g.chance(25) else {}
    operands = [query, key, value]
    if not flat:
        operands = [heads_apart(g, part, n) for part, n in zip(operands, (heads, shared, shared), strict=True)]
    if g.chance(50):
        operands.append(mask(g, x, heads, other.shape[1]))
    mixed = g.op("Attention", *operands, rms=0.6, **attributes)
    return mixed if flat else heads_together(g, mixed)


@block("Attention with a cache", on="tokens", since=23, rare=True)
def cached_attention(g: Sketch, x: Value) -> Value | list[Value]:
    """Keys and values of earlier tokens come from elsewhere in the graph."""
    heads, inner, outer = g.number(1, 3), g.number(1, 3), g.number(1, 3)
    query, key, value = (project(g, x, heads * n) for n in (inner, inner, outer))
    past = [heads_apart(g, g.op("Tanh", part), heads) for part in (key, value)]
    counts = {"q_num_heads": heads, "kv_num_heads": heads}
    mixed, *caches = g.ops("Attention", query, key, value, None, *past, count=3, rms=0.6, **counts)
    seen = g.op("ReduceMean", g.pick(caches), g.ints(2), keepdims=0, layout="tokens")  # (N, heads, ...)
    return [mixed, seen] if g.chance(50) else mixed


@block("RotaryEmbedding", on="tokens", since=23)
def rotary(g: Sketch, x: Value) -> Value:
    """Of flat or unfolded tokens, of all channels of a head or some, in halves or interleaved."""
    heads, turns, passed = g.number(1, 3), g.number(1, 3), g.pick([0, 0, 1, 2, 4])
    x = project(g, x, heads * (2 * turns + passed))
    flat, positions = g.chance(50), g.chance(60)
    batch, length, _ = x.shape
    angles = g.uniform((length + 3, turns), -2, 2)
    order = g.rng.integers(0, length + 3, (batch, length))
    if positions and not g.dynamic:
        caches = [g.constant(wave(angles), "cache") for wave in (np.cos, np.sin)]
        caches.append(g.constant(order, "positions"))
    else:
        zeros = g.op("Mul", mean(g, x, -1, keepdims=1), g.constant(np.float32(0)))
        caches = [g.op("Add", zeros, g.constant(wave(angles[order[0]]))) for wave in (np.cos, np.sin)]
    attributes = {"num_heads": heads} if flat else {}
    attributes |= {"rotary_embedding_dim": 2 * turns} if passed else {}
    attributes |= {"interleaved": 1} if g.chance(40) else {}
    turned = g.op("RotaryEmbedding", x if flat else heads_apart(g, x, heads), *caches, **attributes)
    return turned if flat else heads_together(g, turned)


@block("TensorScatter", on="tokens", since=24, rare=True)
def cache_update(g: Sketch, x: Value) -> Value:
    """Writes the second half of the tokens over the first ones."""
    channels = g.number(2, 5)
    cache = project(g, x, channels)
    new = g.op("Slice", project(g, x, channels), g.ints(0), g.ints(1), g.ints(1))
    return g.op("TensorScatter", cache, new, axis=1)


@block("attention by Einsum", on="tokens", since=12)
def einsum_attention(g: Sketch, x: Value) -> Value:
    """Heads are letters of the equations, or part of their ellipsis, and never transposed; sums that broadcast."""
    heads, inner, outer = g.number(1, 3), g.number(1, 3), g.number(1, 3)
    batch, length, _ = x.shape
    query, key, value = (
        reshape(g, project(g, x, heads * n), batch, length, heads, n) for n in (inner, inner, outer)
    )
    if g.chance(50):
        scores = g.op("Einsum", query, key, equation="bthd,bshd->bhts", rms=0.7)
        if g.chance(40):
            scores = g.op("Einsum", scores, g.constant(g.random((heads, 1, 1)), "factor"), equation="bhts,hts->bhts")
        mixed = g.op("Einsum", g.op("Softmax", scores, axis=-1), value, equation="bhts, bshd -> bthd")
    else:
        query, key, value = (g.op("Transpose", part, perm=(0, 2, 1, 3)) for part in (query, key, value))
        scores = g.op("Einsum", query, key, equation="...td,...sd->...ts", rms=0.7)
        mixed = g.op("Einsum", g.op("Softmax", scores, axis=-1), value, equation="...ts,...sd->...td")
        mixed = g.op("Transpose", mixed, perm=(0, 2, 1, 3))
    return project(g, reshape(g, mixed, batch, length, heads * outer, layout="tokens"), x.channels)
