"""Attention of com.microsoft, its caches and states, against onnxruntime."""

from typing import Any

import numpy as np
import pytest
from contrib import agree, single
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.errors import ConversionError
from onnxprune.to_torch import load

BATCH, LENGTH, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE
X = draw(BATCH, LENGTH, 6)
MASKS: dict[str, Array | None] = {
    "no mask": None,
    "lengths": np.array([3, 5], np.int32),
    "ends and starts": np.array([4, 5, 1, 0], np.int32),
    "keys": np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], np.int32),
    "queries and keys": np.tril(np.ones((BATCH, LENGTH, LENGTH), np.int32)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_every_form_of_mask(causal: int, mask: str) -> None:
    inputs = {"x": X, "w": draw(6, 3 * WIDTH, seed=1), "b": draw(3 * WIDTH, seed=2), "m": MASKS[mask]}
    agree("Attention", inputs, num_heads=HEADS, unidirectional=causal)


@pytest.mark.parametrize("across", [1, HEADS])
@pytest.mark.parametrize("facts", [{}, {"scale": 0.3}, {"unidirectional": 1}], ids=str)
def test_attention_with_values_of_another_width_and_a_bias(across: int, facts: dict[str, Any]) -> None:
    inputs = {
        "x": X, "w": draw(6, 2 * WIDTH + HEADS * 7, seed=1), "b": draw(2 * WIDTH + HEADS * 7, seed=2),
        "m": None, "past": None, "added": draw(1, across, LENGTH, LENGTH, seed=3),
    }  # fmt: skip
    agree("Attention", inputs, num_heads=HEADS, qkv_hidden_sizes=[WIDTH, WIDTH, HEADS * 7], **facts)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_a_past(causal: int) -> None:
    past = draw(2, BATCH, HEADS, 3, SIZE, seed=3)
    mask = np.array([[1] * 8, [0, 0, *[1] * 6]], np.int32)
    inputs = {"x": X, "w": draw(6, 3 * WIDTH, seed=1), "b": draw(3 * WIDTH, seed=2), "m": mask, "past": past}
    agree("Attention", inputs, outputs=2, num_heads=HEADS, unidirectional=causal)


def heads(x: Array) -> Array:
    return np.ascontiguousarray(x.reshape(BATCH, -1, HEADS, SIZE).transpose(0, 2, 1, 3))


def flat(length: int, seed: int) -> Array:
    return draw(BATCH, length, WIDTH, seed=seed)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("mask", ["no mask", "lengths", "keys", "queries and keys"])
def test_multi_head_attention(mask: str, apart: bool, bias: bool) -> None:
    k, v = flat(LENGTH, 1), flat(LENGTH, 2)
    inputs = {
        "q": flat(LENGTH, 0), "k": heads(k) if apart else k, "v": heads(v) if apart else v,
        "b": draw(3 * WIDTH, seed=3) if bias else None, "m": MASKS[mask],
        "added": draw(BATCH, 1, LENGTH, LENGTH, seed=4),
    }  # fmt: skip
    agree("MultiHeadAttention", inputs, num_heads=HEADS)


def test_attention_to_another_text_is_scaled() -> None:
    inputs = {"q": flat(2, 0), "k": flat(LENGTH, 1), "v": flat(LENGTH, 2)}
    agree("MultiHeadAttention", inputs, num_heads=HEADS, scale=0.7)


@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_a_past(causal: int) -> None:
    past = {"pk": heads(flat(3, 5)), "pv": heads(flat(3, 6))}
    inputs = {"q": flat(2, 0), "k": flat(2, 1), "v": flat(2, 2), "b": None, "m": None, "added": None, **past}
    agree("MultiHeadAttention", inputs, outputs=3, num_heads=HEADS, unidirectional=causal)


GROUPS, SHARED, WIDE = 4, 2, 16
ANGLES = np.random.default_rng(3).uniform(-2, 2, (12, WIDE // 2)).astype(np.float32)
CACHES = {"cos": np.cos(ANGLES), "sin": np.sin(ANGLES)}


def grouped(length: int, past: int, *, batch: int = BATCH, packed: bool = False) -> dict[str, Array | None]:
    """Query heads in groups that share keys and values."""
    q, k, v = (draw(batch, length, n * WIDE, seed=i) for i, n in enumerate((GROUPS, SHARED, SHARED)))
    total = past + length
    inputs = {"q": np.concatenate([q, k, v], -1), "k": None, "v": None} if packed else {"q": q, "k": k, "v": v}
    cache = {n: draw(batch, SHARED, past, WIDE, seed=i) if past else None for i, n in enumerate(["pk", "pv"])}
    return {
        **inputs, **cache, "known": np.full(batch, total - 1, np.int32), "total": np.array(total, np.int32)
    }  # fmt: skip


@pytest.mark.parametrize(("length", "past", "batch"), [(5, 0, 2), (1, 4, 2), (3, 4, 1)])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
        {"local_window_size": 2},
        {"softcap": 3.0, "scale": 0.5},
        {"smooth_softmax": 1},
    ],
    ids=str,
)
def test_group_query_attention(
    facts: dict[str, Any], packed: bool, length: int, past: int, batch: int
) -> None:
    inputs = grouped(length, past, batch=batch, packed=packed) | (CACHES if "do_rotary" in facts else {})
    fed = ["q"] if packed else ["q", "k", "v"]
    agree("GroupQueryAttention", inputs, fed=fed, outputs=3, num_heads=GROUPS, kv_num_heads=SHARED, **facts)


SPARE = dict.fromkeys(["cos", "sin", "places", "bias", "sink", "k_scale", "v_scale"])
"""What stands between the lengths and the norms."""


@pytest.mark.parametrize(
    "facts", [{}, {"qk_norm_epsilon": 0.1}, {"q_norm_epsilon": 0.1, "k_norm_epsilon": 0.5}], ids=str
)
def test_group_query_attention_with_norms_inside(facts: dict[str, float]) -> None:
    """Against the same with the norms before it: not every onnxruntime runs them, or knows an epsilon for each."""
    inputs = grouped(5, 0)
    weights = {"q": draw(WIDE, seed=7), "k": draw(WIDE, seed=8)}
    made = single(
        "GroupQueryAttention", inputs | SPARE | {"qw": weights["q"], "kw": weights["k"]}, fed=["q", "k", "v"],
        num_heads=GROUPS, kv_num_heads=SHARED, **facts,
    )  # fmt: skip
    epsilon = facts.get("qk_norm_epsilon", 1e-6)
    normed = {n: rms_norm(inputs[n], weights[n], facts.get(f"{n}_norm_epsilon", epsilon)) for n in ("q", "k")}
    plain = single("GroupQueryAttention", inputs, fed=["q", "k", "v"], num_heads=GROUPS, kv_num_heads=SHARED)
    (ours,) = in_torch(load(made), *(inputs[name] for name in "qkv"))
    (theirs,) = in_onnxruntime(plain, normed["q"], normed["k"], inputs["v"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """Head by head."""
    heads = x.reshape(*x.shape[:2], -1, len(weight))
    size = np.sqrt(np.square(heads).mean(-1, keepdims=True) + epsilon)
    return np.asarray((heads / size * weight).reshape(x.shape), np.float32)


def test_texts_of_several_lengths_put_their_keys_where_theirs_end() -> None:
    inputs = grouped(1, 4) | {"known": np.array([2, 4], np.int32)} | CACHES
    made = single("GroupQueryAttention", inputs, fed=["q"], outputs=3, num_heads=GROUPS, kv_num_heads=SHARED,
                  do_rotary=1)  # fmt: skip
    (y, k, v), (y2, k2, v2) = in_torch(load(made), inputs["q"]), in_onnxruntime(made, inputs["q"])
    np.testing.assert_allclose(y, y2, rtol=1e-4, atol=1e-5)
    for ours, theirs in ((k, k2), (v, v2)):
        for text, known in enumerate([3, 5]):
            np.testing.assert_allclose(ours[text, :, :known], theirs[text, :, :known], rtol=1e-5, atol=1e-6)


def test_group_query_attention_refuses_what_it_does_not_compute() -> None:
    inputs = grouped(1, 4)
    for facts in ({"kv_cache_bit_width": 8}, {"qk_output": 1}):
        made = single("GroupQueryAttention", inputs, fed=["q"], num_heads=GROUPS, kv_num_heads=SHARED, **facts)
        with pytest.raises(ConversionError, match="is not supported"):
            load(made)
    padded = inputs | SPARE | dict.fromkeys(["qw", "kw"]) | {"queries": np.ones(len(inputs["known"]), np.int32)}
    made = single("GroupQueryAttention", padded, fed=["q"], num_heads=GROUPS, kv_num_heads=SHARED)
    with pytest.raises(ConversionError, match="query_seqlens"):
        load(made)


@pytest.mark.parametrize("start", [np.array([2]), np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])], ids=str)
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("facts", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 8, "num_heads": 2}], ids=str)
def test_rotary_embedding(facts: dict[str, Any], apart: bool, start: Array) -> None:
    turned = facts.get("rotary_embedding_dim", 16) // 2
    x = draw(BATCH, 2, LENGTH, 16) if apart else draw(BATCH, LENGTH, 32)
    caches = {n: np.ascontiguousarray(c[:, :turned]) for n, c in CACHES.items()}
    agree("RotaryEmbedding", {"x": x, "places": start, **caches}, **facts)


RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("past", [True, False])
def test_linear_attention(past: bool, rule: str) -> None:
    gated, delta = RULES[rule]
    inputs = {
        "q": draw(BATCH, LENGTH, GROUPS * 4), "k": draw(BATCH, LENGTH, SHARED * 4, seed=1) / 2,
        "v": draw(BATCH, LENGTH, SHARED * 3, seed=2), "past": draw(BATCH, SHARED, 4, 3) if past else None,
        "decay": -np.abs(draw(BATCH, LENGTH, SHARED)) if gated else None,
        "beta": np.abs(np.tanh(draw(BATCH, LENGTH, SHARED))) if delta else None,
    }  # fmt: skip
    while next(reversed(inputs.values())) is None:
        inputs.popitem()
    facts = {"q_num_heads": GROUPS, "kv_num_heads": SHARED, "update_rule": rule}
    agree("LinearAttention", inputs, outputs=2, **facts)


@pytest.mark.parametrize("facts", [{}, {"activation": "silu"}, {"dilation": 2}, {"channels_last": 1}], ids=str)
@pytest.mark.parametrize("past", [True, False])
def test_causal_convolution(past: bool, facts: dict[str, Any]) -> None:
    last, before = facts.get("channels_last"), 2 * facts.get("dilation", 1)
    x, state = draw(BATCH, 6, LENGTH), draw(BATCH, 6, before, seed=3)
    x, state = (np.ascontiguousarray(a.swapaxes(1, 2)) if last else a for a in (x, state))
    inputs = {"x": x, "w": draw(6, 1, 3, seed=1), "b": draw(6, seed=2), "past": state if past else None}
    agree("CausalConvWithState", inputs, outputs=2, **facts)
