"""GroupQueryAttention and RotaryEmbedding of com.microsoft, which language models decode with."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Fixed, Scalar, number
from onnxprune.to_torch.ops import rotary
from onnxprune.to_torch.ops.attention import attend
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.microsoft_attention import heads_apart
from onnxprune.to_torch.registry import converts


@converts("RotaryEmbedding", domain=DOMAIN, since=1)
def rotary_embedding(
    x: Tensor,
    position_ids: Tensor,
    cos_cache: Fixed,
    sin_cache: Fixed,
    *,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """`x` [batch, length, heads * size] or [batch, heads, length, size]; one position is that of the first token."""
    heads = num_heads if rotary_embedding_dim else x.shape[-1] // (2 * cos_cache.shape[1])
    apart = heads_apart(x, heads)
    places = position_ids
    if position_ids.dim() == 1:
        places = position_ids + torch.arange(apart.shape[2], device=x.device)[None]
    y = _turned(apart, cos_cache, sin_cache, places, interleaved)
    return y if x.dim() == 4 else y.transpose(1, 2).flatten(2)


def _turned(x: Tensor, cos_cache: Tensor, sin_cache: Tensor, places: Tensor, interleaved: int) -> Tensor:
    """Pairs of the first entries of each head turned; `x` [batch, heads, length, size], `places` [batch, length]."""
    width = 2 * cos_cache.shape[-1]
    return rotary.rotary_embedding(
        x, cos_cache, sin_cache, places, interleaved=interleaved, rotary_embedding_dim=width
    )


@converts("GroupQueryAttention", domain=DOMAIN, since=1)
def group_query_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    seqlens_k: Tensor,
    total_sequence_length: Scalar,
    cos_cache: Fixed | None = None,
    sin_cache: Fixed | None = None,
    position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_sink: Tensor | None = None,
    k_scale: None = None,
    v_scale: None = None,
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    query_seqlens: None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float | None = None,
    softcap: float = 0.0,
    causal: int = 1,
    local_window_size: int = -1,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    smooth_softmax: int = -1,
    qk_norm_epsilon: float = 1e-6,
    q_norm_epsilon: float | None = None,
    k_norm_epsilon: float | None = None,
    qk_output: Literal[0] = 0,
    sliding_window_cache: Literal[0] = 0,
    kv_cache_bit_width: Literal[0] = 0,
    k_quant_type: Literal["NONE"] = "NONE",
    v_quant_type: Literal["NONE"] = "NONE",
    n_outputs: Literal[1, 2, 3] = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Text `b` has `seqlens_k[b] + 1` keys, its new ones last; caches are [batch, heads, at least so many, size]."""
    q, k, v = _heads(query, key, value, num_heads, kv_num_heads)
    if q_norm_weight is not None and k_norm_weight is not None:
        q = F.rms_norm(q, q.shape[-1:], q_norm_weight, q_norm_epsilon or qk_norm_epsilon)
        k = F.rms_norm(k, k.shape[-1:], k_norm_weight, k_norm_epsilon or qk_norm_epsilon)
    length, total = q.shape[2], int(number(total_sequence_length))
    known = seqlens_k.reshape(-1, 1).to(torch.int64) + 1
    first = length > 1 and length == total
    places = torch.arange(length, device=q.device) + (torch.zeros_like(known) if first else known - length)
    if do_rotary and cos_cache is not None and sin_cache is not None:
        given = places if position_ids is None else position_ids
        q, k = (_turned(x, cos_cache, sin_cache, given, rotary_interleaved) for x in (q, k))
    if past_key is not None and past_value is not None:
        k, v = _cached(past_key, k, places, total), _cached(past_value, v, places, total)
    seen = _seen(known, places, k.shape[2], local_window_size if causal else None)
    added = torch.where(seen, 0.0 if attention_bias is None else attention_bias, -torch.inf).to(q.dtype)
    sink = q.new_zeros(num_heads) if smooth_softmax > 0 else head_sink
    if sink is None and not softcap:
        y = attend(q, k, v, added, scale=scale or None)
    else:
        y = _written_out(q, k, v, added, scale or q.shape[-1] ** -0.5, softcap, sink)
    y = y.transpose(1, 2).flatten(2)
    return (y, k, v)[:n_outputs] if n_outputs > 1 else y


def _heads(
    query: Tensor, key: Tensor | None, value: Tensor | None, num_heads: int, kv_num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [batch, heads, length, size], all packed in `query` where it stands alone."""
    if key is None or value is None:
        packed = heads_apart(query, num_heads + 2 * kv_num_heads)
        q, k, v = torch.split(packed, [num_heads, kv_num_heads, kv_num_heads], 1)
        return q, k, v
    return heads_apart(query, num_heads), heads_apart(key, kv_num_heads), heads_apart(value, kv_num_heads)


def _seen(known: Tensor, places: Tensor, keys: int, window: int | None) -> Tensor:
    """Which keys [batch, 1, queries, keys] a query at each of `places` sees; without `window` all that are `known`."""
    at, now = torch.arange(keys, device=places.device), places.unsqueeze(-1)
    if window is None:
        return (at < known.unsqueeze(-1)).expand(-1, places.shape[1], -1).unsqueeze(1)
    seen = at <= now
    return (seen & (at > now - window) if window > 0 else seen).unsqueeze(1)


def _cached(past: Tensor, new: Tensor, places: Tensor, total: int) -> Tensor:
    """The cache with each text's new entries at their `places`, and room for `total`."""
    cache = F.pad(past, [0, 0, 0, max(total - past.shape[2], 0)])
    return cache.scatter(2, places[:, None, :, None].expand_as(new), new)


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float, softcap: float, sink: Tensor | None
) -> Tensor:
    """`sink` [heads]: one more score in each softmax, which has no value."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.mT) * scale
    scores = (softcap * torch.tanh(scores / softcap) if softcap else scores) + added
    if sink is None:
        return torch.matmul(torch.softmax(scores, -1), v)
    column = sink.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
    return torch.matmul(torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1], v)
