"""Ops that were on trial in opsets 1 to 9 and left; their schemas are gone, files that hold them are not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints
from onnxprune.to_torch.ops.activation import thresholded_relu
from onnxprune.to_torch.ops.join import slice_
from onnxprune.to_torch.ops.norm import mean_variance_normalization
from onnxprune.to_torch.registry import converts

converts("ThresholdedRelu", since=1)(thresholded_relu)


@converts("Affine", since=1)
def affine(x: Tensor, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    return alpha * x + beta


@converts("ParametricSoftplus", since=1)
def parametric_softplus(x: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    return alpha * torch.logaddexp(beta * x, torch.zeros_like(x))


@converts("ScaledTanh", since=1)
def scaled_tanh(x: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    return alpha * torch.tanh(beta * x)


@converts("ImageScaler", since=1)
def image_scaler(x: Tensor, *, bias: Sequence[float], scale: float = 1.0) -> Tensor:
    """One bias per channel, after the scale."""
    return x * scale + torch.tensor(bias, device=x.device, dtype=x.dtype).reshape(-1, 1, 1)


@converts("Crop", since=1)
def crop(x: Tensor, *, border: Sequence[int], scale: Sequence[int] | None = None) -> Tensor:
    """`border` is left, top, right, bottom; `scale`, height and width, stands for the last two."""
    left, top, right, bottom = border
    height, width = scale or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    return x[:, :, top : top + height, left : left + width]


@converts("DynamicSlice", since=1)
def dynamic_slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None) -> Tensor:
    return slice_(x, starts, ends, axes)


@converts("MeanVarianceNormalization", since=1)
def mean_variance_normalization_1(
    x: Tensor, *, across_channels: int = 0, normalize_variance: int = 1
) -> Tensor:
    axes = [0, 1, 2, 3] if across_channels else [0, 2, 3]
    if normalize_variance:
        return mean_variance_normalization(x, axes=axes)
    return x - x.mean(axes, keepdim=True)
