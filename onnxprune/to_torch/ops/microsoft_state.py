"""CausalConvWithState and LinearAttention of com.microsoft."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.ops.conv import conv
from onnxprune.to_torch.ops.linear_attention import linear_attention
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.registry import converts


@converts("CausalConvWithState", domain=DOMAIN, since=1)
def causal_conv_with_state(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past_state: Tensor | None = None,
    *,
    activation: str = "none",
    channels_last: int = 0,
    dilation: int = 1,
    input_channel_offset: Literal[0] = 0,
    input_channels: Literal[0] = 0,
    ndim: Literal[1] = 1,
    state_channels_last: Literal[-1] = -1,
    state_length: Literal[0] = 0,
    state_update_capacity: Literal[0] = 0,
    state_window: Literal[0] = 0,
    n_outputs: Literal[1, 2] = 1,
) -> Tensor | tuple[Tensor, ...]:
    """`x` [batch, channels, time], each channel by itself; the state is what came before, and then what is last."""
    shape = x.shape
    if channels_last:
        x = x.flatten(2).mT
        past_state = None if past_state is None else past_state.flatten(2).mT
    before = (weight.shape[-1] - 1) * dilation
    past = x.new_zeros(*x.shape[:2], before) if past_state is None else past_state.to(x.dtype)
    known = torch.cat([past, x], -1)
    y = conv(known, weight, bias, group=x.shape[1], dilations=[dilation])
    y = F.silu(y) if activation in ("silu", "swish") else y
    present = known[..., known.shape[-1] - before :]
    if channels_last:
        y, present = y.mT.reshape(shape), present.mT.reshape(shape[0], -1, *shape[2:])
    return (y, present)[:n_outputs] if n_outputs > 1 else y


@converts("LinearAttention", domain=DOMAIN, since=1)
def linear_attention_microsoft(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    chunk_size: int = 64,
    scale: float = 0.0,
    state_window: Literal[0] = 0,
    update_rule: str = "gated_delta",
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Where there are fewer heads of queries than of keys and values, each serves several of these."""
    if q_num_heads < kv_num_heads:
        heads = query.reshape(*query.shape[:2], q_num_heads, -1)
        query = heads.repeat_interleave(kv_num_heads // q_num_heads, 2).flatten(2)
    return linear_attention(
        query, key, value, past_state, decay, beta, q_num_heads=max(q_num_heads, kv_num_heads),
        kv_num_heads=kv_num_heads, scale=scale, n_outputs=n_outputs,
    )  # fmt: skip
