"""Attention without a softmax: a state per head that each step decays, corrects and reads."""

import torch
from torch import Tensor

from onnxprune.to_torch.registry import converts


@converts("LinearAttention", since=27)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    update_rule: str = "gated_delta",
    scale: float = 0.0,
    chunk_size: int = 64,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Operands [batch, time, heads * size], in float32 inside; the state is [batch, heads, key, value]."""
    q, k, v = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    batch, time, _, size = q.shape
    state = q.new_zeros(batch, kv_num_heads, size, v.shape[-1]) if past is None else past.float()
    keep = None if decay is None else _heads(decay, kv_num_heads).exp().unsqueeze(-1)
    share = None if beta is None else beta.float().unsqueeze(-1)
    groups, factor = q_num_heads // kv_num_heads, scale or size**-0.5
    outputs = []
    for t in range(time):
        if keep is not None:
            state = state * keep[:, t]
        new = v[:, t]
        if share is not None:
            new = share[:, t] * (new - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + k[:, t].unsqueeze(-1) * new.unsqueeze(-2)
        read = state.repeat_interleave(groups, 1) if groups > 1 else state
        outputs.append(factor * torch.einsum("bhk,bhkv->bhv", q[:, t], read))
    y = torch.stack(outputs, 1).flatten(2).to(query.dtype)
    return (y, state.to(query.dtype if past is None else past.dtype)) if n_outputs > 1 else y


def _heads(x: Tensor, heads: int) -> Tensor:
    """[batch, time, heads, size]."""
    return x.float().reshape(x.shape[0], x.shape[1], heads, -1)
