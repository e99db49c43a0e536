"""Attention and MultiHeadAttention of com.microsoft: masks are numbers added to the scores."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.ops.attention import attend
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.microsoft_integer import matmul_integer_to_float
from onnxprune.to_torch.registry import converts


@converts("Attention", domain=DOMAIN, since=1)
def attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_sequence_length: None = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: Sequence[int] | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    do_rotary: Literal[0] = 0,
    rotary_embedding_dim: int = 0,
    past_present_share_buffer: Literal[0] = 0,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """`weights` [input, queries + keys + values] project; `past` and `present` [2, batch, heads, length, size]."""
    projected = F.linear(x, weights.t(), bias)
    sizes = list(qkv_hidden_sizes or [projected.shape[-1] // 3] * 3)
    q, k, v = (heads_apart(part, num_heads) for part in torch.split(projected, sizes, -1))
    k, v = _after(past, k, v)
    y = _attend(q, k, v, mask_index, attention_bias, mask_filter_value, scale, causal=bool(unidirectional))
    return (y, torch.stack([k, v]))[:n_outputs] if n_outputs > 1 else y


def _after(past: Tensor | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))


@converts("QAttention", domain=DOMAIN, since=1)
def qattention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Fixed,
    weight_scale: Fixed,
    mask_index: Tensor | None = None,
    x_zero: Fixed | None = None,
    weight_zero: Fixed | None = None,
    past: Tensor | None = None,
    *,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    do_rotary: Literal[0] = 0,
    past_present_share_buffer: Literal[0] = 0,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Attention whose projections multiply quantised numbers."""
    projected = matmul_integer_to_float(x, weight, x_scale, weight_scale, x_zero, weight_zero, bias)
    q, k, v = (heads_apart(part, num_heads) for part in projected.chunk(3, -1))
    k, v = _after(past, k, v)
    y = _attend(q, k, v, mask_index, None, mask_filter_value, scale, causal=bool(unidirectional))
    return (y, torch.stack([k, v]))[:n_outputs] if n_outputs > 1 else y


@converts("MultiHeadAttention", domain=DOMAIN, since=1)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_sequence_length: None = None,
    cache_indirection: None = None,
    *,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    n_outputs: Literal[1, 2, 3] = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Operands flat, packed [batch, length, heads, 2 or 3, size], or keys and values with their heads apart.

    `bias` [queries + keys + values] is added to what is flat or packed.
    """
    if key is None:
        q, k, v = (part.flatten(2) for part in query.unbind(3))
    elif value is None:
        q, (k, v) = query, (part.flatten(2) for part in key.unbind(3))
    else:
        q, k, v = query, key, value
    if bias is not None:
        size = q.shape[-1]
        q = q + bias[:size]
        if k.dim() == 3:
            k, v = k + bias[size : 2 * size], v + bias[2 * size :]
    q, k, v = (heads_apart(part, num_heads) for part in (q, k, v))
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    y = _attend(
        q, k, v, key_padding_mask, attention_bias, mask_filter_value, scale, causal=bool(unidirectional)
    )
    return (y, k, v)[:n_outputs] if n_outputs > 1 else y


def heads_apart(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    return x if x.dim() == 4 else x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    attention_bias: Tensor | None,
    filter_value: float,
    scale: float | None,
    *,
    causal: bool,
) -> Tensor:
    """[batch, length, heads * size]; the last query stands at the last key."""
    before = k.shape[2] - q.shape[2]
    added = attention_bias
    if mask is not None:
        seen = _seen(mask, q.shape[0], q.shape[2], k.shape[2])
        hidden = torch.where(seen, 0, filter_value).to(q.dtype)
        added = hidden if added is None else hidden + added
    plain = added is None and before == 0
    if causal and not plain:
        order = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(before)
        added = order if added is None else torch.where(order, added, -torch.inf)
    y = attend(q, k, v, added, causal=causal and plain, scale=scale or None)
    return y.transpose(1, 2).flatten(2)


def _seen(mask: Tensor, batch: int, queries: int, keys: int) -> Tensor:
    """Which keys [batch, 1, queries or 1, keys] a mask of any of the op's forms leaves.

    One axis: how many keys each text has, or their ends followed by their starts; else 1 for each key to see.
    """
    if mask.dim() == 1:
        place = torch.arange(keys, device=mask.device)
        seen = place < mask[:batch, None]
        if mask.shape[0] == 2 * batch:
            seen = seen & (place >= mask[batch:, None])
        return seen[:, None, None]
    if mask.dim() == 4:
        return mask[:, :, keys - queries : keys, :keys] > 0
    return (mask[:, None, None] if mask.dim() == 2 else mask[:, None]) > 0
