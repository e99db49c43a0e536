"""Normalisations of com.microsoft, and those that onnxruntime writes into ONNX's own domain."""

import torch
from torch import Tensor

from onnxprune.to_torch.microsoft import DOMAIN
from onnxprune.to_torch.norm import layer_normalization
from onnxprune.to_torch.operands import dtype_of
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
