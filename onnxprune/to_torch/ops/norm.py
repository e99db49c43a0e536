"""Normalisations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxprune.to_torch.operands import Statistic, dtype_of
from onnxprune.to_torch.registry import converts


@converts("BatchNormalization", since=7)
class BatchNormalization(nn.Module):
    """Running statistics in eval mode; in train mode the batch's, which the running ones then follow.

    As in torch.nn.BatchNorm2d the running variance follows the unbiased estimate; ONNX counts `momentum` as
    what stays, PyTorch as what is replaced.
    """

    def __init__(self, *, epsilon: float = 1e-5, momentum: float = 0.9, spatial: int = 1) -> None:
        super().__init__()
        self.epsilon, self.momentum, self.spatial = epsilon, momentum, spatial

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Statistic, var: Statistic) -> Tensor:
        if not self.spatial:  # opset 7 only: one statistic per feature, not per channel
            shape = x.shape
            y = F.batch_norm(
                x.flatten(1), mean.flatten(), var.flatten(), scale.flatten(), bias.flatten(), self.training,
                1 - self.momentum, self.epsilon,
            )  # fmt: skip
            return y.reshape(shape)
        # Since opset 14 x may be float16 beside float32 statistics; PyTorch wants one type.
        scale, bias = scale.to(mean.dtype), bias.to(mean.dtype)
        if x.dtype != mean.dtype and not torch.is_autocast_enabled(x.device.type):
            y = F.batch_norm(
                x.to(mean.dtype), mean, var, scale, bias, self.training, 1 - self.momentum, self.epsilon
            )
            return y.to(x.dtype)
        return F.batch_norm(x, mean, var, scale, bias, self.training, 1 - self.momentum, self.epsilon)


@converts("BatchNormalization", since=14)
class BatchNormalization14(BatchNormalization):
    """With `training_mode=1` the node itself asks for the batch's statistics, in either mode."""

    def __init__(
        self, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, n_outputs: int = 1
    ) -> None:
        super().__init__(epsilon=epsilon, momentum=momentum)
        self.training_mode, self.n_outputs = training_mode, n_outputs

    def forward(  # type: ignore[override]  # the running statistics too, where the graph reads them
        self, x: Tensor, scale: Tensor, bias: Tensor, mean: Statistic, var: Statistic
    ) -> Tensor | tuple[Tensor, ...]:
        if not self.training_mode:
            return super().forward(x, scale, bias, mean, var)
        axes = [0, *range(2, x.dim())]
        y = F.batch_norm(x, None, None, scale.to(x.dtype), bias.to(x.dtype), True, 0.0, self.epsilon)
        with torch.no_grad():
            new_mean = mean * self.momentum + x.mean(axes).to(mean.dtype) * (1 - self.momentum)
            new_var = var * self.momentum + x.var(axes, correction=0).to(var.dtype) * (1 - self.momentum)
            if self.training:
                mean.copy_(new_mean)
                var.copy_(new_var)
        return (y, new_mean, new_var)[: self.n_outputs] if self.n_outputs > 1 else y


@converts("InstanceNormalization", since=1)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled)


@converts("GroupNormalization", since=18)
def group_normalization_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """`scale` and `bias` hold one entry per group (changed in opset 21)."""
    per_group = x.shape[1] // num_groups
    return _group_norm(
        x, num_groups, scale.repeat_interleave(per_group), bias.repeat_interleave(per_group), epsilon
    )


@converts("GroupNormalization", since=21)
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return _group_norm(x, num_groups, scale, bias, epsilon)


def _group_norm(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """On a CPU the backward pass of PyTorch 2.13 crashes where the input lies channels last and takes no gradient."""
    return F.group_norm(x if x.requires_grad else x.contiguous(), groups, scale, bias, epsilon)


@converts("LayerNormalization", since=17)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    shape = x.shape[axis:]
    if n_outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    axes = list(range(axis % x.dim(), x.dim()))
    stashed = x.to(dtype_of(stash_type))
    mean = stashed.mean(axes, keepdim=True)
    deviation = torch.rsqrt((stashed - mean).square().mean(axes, keepdim=True) + epsilon)
    y = ((stashed - mean) * deviation).to(x.dtype) * scale
    y = y if bias is None else y + bias
    return (y, mean, deviation)[:n_outputs] if n_outputs > 1 else y


@converts("RMSNormalization", since=23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    axes = list(range(axis % x.dim(), x.dim()))
    stashed = x.to(dtype_of(stash_type))
    return (stashed * torch.rsqrt(stashed.square().mean(axes, keepdim=True) + epsilon)).to(x.dtype) * scale


@converts("LRN", since=1)
def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    squares = x.square()
    before, after = (size - 1) // 2, size // 2
    padded = F.pad(squares, [0, 0] * (x.dim() - 2) + [before, after])
    total = torch.stack([padded[:, i : i + x.shape[1]] for i in range(size)]).sum(0)
    return x / (bias + alpha / size * total) ** beta


@converts("LpNormalization", since=1)
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Vectors of norm 0 stay 0, as in onnxruntime."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)


@converts("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    mean = x.mean(list(axes), keepdim=True)
    deviation = ((x * x).mean(list(axes), keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (deviation + 1e-9)  # the epsilon of the specification's function body
