"""Positions as rotations of pairs of features (arXiv 2104.09864)."""

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.registry import converts


@converts("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cos: Fixed,
    sin: Fixed,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """`x` [batch, heads, length, size] or [batch, length, heads * size]; the rest of each head stays as it is.

    `cos` and `sin` are [batch, length, pairs], or with `position_ids` [batch, length] tables [positions, pairs].
    """
    shape = x.shape
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    heads = 2 if x.dim() == 3 else 1  # the axis
    x = x.reshape(*shape[:2], num_heads, -1) if x.dim() == 3 else x
    cos, sin = cos.unsqueeze(heads), sin.unsqueeze(heads)
    size = rotary_embedding_dim or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        y = torch.stack([real, imaginary], -1).flatten(-2)
        y = torch.cat([y, rest], -1) if rest.shape[-1] else y
    else:
        y = torch.cat([real, imaginary, rest] if rest.shape[-1] else [real, imaginary], -1)
    return y.reshape(shape)
