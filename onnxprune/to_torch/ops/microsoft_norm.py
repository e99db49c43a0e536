"""Normalisations of com.microsoft, and those that onnxruntime writes into ONNX's own domain."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import dtype_of
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.norm import layer_normalization
from onnxprune.to_torch.registry import converts

converts("LayerNormalization", since=1)(layer_normalization)


@converts("SimplifiedLayerNormalization", since=1)
def simplified_layer_normalization(
    x: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """By the root of the mean square, whose inverse is the second output."""
    axes = list(range(axis % x.dim(), x.dim()))
    stashed = x.to(dtype_of(stash_type))
    deviation = torch.rsqrt(stashed.square().mean(axes, keepdim=True) + epsilon)
    y = (stashed * deviation).to(scale.dtype) * scale
    return (y, deviation)[:n_outputs] if n_outputs > 1 else y


@converts("SkipLayerNormalization", domain=DOMAIN, since=1)
def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """The norm of the sum, its mean and inverse deviation, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    normed = layer_normalization(total, gamma, beta, epsilon=epsilon, n_outputs=min(n_outputs, 3))
    return (*normed, total)[:n_outputs] if isinstance(normed, tuple) else normed


@converts("SkipSimplifiedLayerNormalization", domain=DOMAIN, since=1)
def skip_simplified_layer_normalization(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    normed = simplified_layer_normalization(total, gamma, epsilon=epsilon, n_outputs=min(n_outputs, 2))
    if not isinstance(normed, tuple):
        return normed
    y, deviation = normed
    return (y, torch.zeros_like(deviation), deviation, total)[:n_outputs]


@converts("GroupNorm", domain=DOMAIN, since=1)
def group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    activation: int,
    groups: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Tensor:
    y = F.group_norm(x.movedim(-1, 1) if channels_last else x, groups, gamma, beta, epsilon)
    y = F.silu(y) if activation else y
    return y.movedim(1, -1) if channels_last else y


@converts("SkipGroupNorm", domain=DOMAIN, since=1)
def skip_group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    skip: Tensor,
    bias: Tensor | None = None,
    *,
    activation: int,
    groups: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """The norm of the sum, and the sum; `skip` may be [batch, channels]."""
    total = x + _against(x, skip, channels_last)
    total = total if bias is None else total + _against(x, bias.unsqueeze(0), channels_last)
    y = group_norm(
        total, gamma, beta, activation=activation, groups=groups, channels_last=channels_last, epsilon=epsilon
    )
    return (y, total)[:n_outputs] if n_outputs > 1 else y


def _against(x: Tensor, side: Tensor, channels_last: int) -> Tensor:
    """`side` [batch, channels] against the channels of `x`."""
    if side.dim() == x.dim():
        return side
    over = [1] * (x.dim() - 2)
    batch, channels = side.shape
    return side.reshape([batch, *over, channels] if channels_last else [batch, channels, *over])


@converts("EmbedLayerNormalization", domain=DOMAIN, since=1)
def embed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Tensor,
    position_embedding: Tensor,
    segment_embedding: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """The norm of the sum of embeddings, how many words `mask` leaves per text, and the sum."""
    batch, length = input_ids.shape
    places = torch.arange(length, device=input_ids.device) if position_ids is None else position_ids
    total = word_embedding[input_ids] + position_embedding[places]
    if segment_ids is not None and segment_embedding is not None:
        total = total + segment_embedding[segment_ids]
    y = layer_normalization(total, gamma, beta, epsilon=epsilon)
    assert isinstance(y, Tensor)
    if n_outputs == 1:
        return y
    words = input_ids.new_zeros(batch) if mask is None else mask.sum(1)
    return (y, words.to(torch.int32), total)[:n_outputs]
