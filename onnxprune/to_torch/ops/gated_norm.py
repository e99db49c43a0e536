"""Layer and root mean square normalisation over the open channels, as one op: see `onnxprune.ops.norm`.

What the function bodies in the gated model compute node by node takes a few passes over the activations here, and
keeps only the input for the backward.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from onnxprune.to_torch.operands import dtype_of
from onnxprune.to_torch.registry import converts

DOMAIN = "onnxprune"


class _GatedNorm(nn.Module):
    centred: bool

    def __init__(
        self,
        *,
        axis: int = -1,
        epsilon: float = 1e-5,
        stash_type: int = 1,
        gate_value: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.axis, self.epsilon, self.stash_type, self.gate_value = axis, epsilon, stash_type, gate_value

    def normalised(self, x: Tensor, scale: Tensor, bias: Tensor | None, w: Tensor) -> Tensor:
        sizes = x.shape[self.axis :]
        dtype = torch.promote_types(x.dtype, dtype_of(self.stash_type))
        factor = (w > 0) if self.gate_value is None else self.gate_value(w)
        weight = factor.to(dtype).expand(*[1] * (x.dim() - len(sizes)), *sizes).reshape(-1)
        weight = weight / (len(weight) // w.numel())  # the mean over an axis without gates
        rows = x.to(dtype).reshape(-1, math.prod(sizes))
        whole = x.dtype == dtype and scale.shape == sizes and (bias is None or bias.shape == sizes)
        affine = [p.reshape(-1) if whole and p is not None else None for p in (scale, bias)]
        y = cast(Tensor, _OverOpen.apply(rows, weight, *affine, self.epsilon, self.centred))
        y = y.to(x.dtype).reshape(x.shape)
        if whole:
            return y
        return y * scale if bias is None else y * scale + bias


@converts("GatedLayerNormalization", domain=DOMAIN, since=1)
class GatedLayerNormalization(_GatedNorm):
    """`w` comes last: third where the node has no bias."""

    centred = True

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor | None, w: Tensor | None = None) -> Tensor:
        if w is None:
            bias, w = None, cast(Tensor, bias)
        return self.normalised(x, scale, bias, w)


@converts("GatedRMSNormalization", domain=DOMAIN, since=1)
@converts("GatedSimplifiedLayerNormalization", domain=DOMAIN, since=1)
class GatedRMSNormalization(_GatedNorm):
    centred = False

    def forward(self, x: Tensor, scale: Tensor, w: Tensor) -> Tensor:
        return self.normalised(x, scale, None, w)


class _OverOpen(torch.autograd.Function):
    """Of each row of `x` [rows, channels] the mean and variance of its channels weighted with `g` [channels].

    With g the gates, n = max(sum g, 1), m = sum(g x) / n, v = sum(g (x - m)^2) / n: the result is
    (x - m) / sqrt(v + epsilon) * scale + bias, where x is 0 at closed channels, whatever they hold.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        g: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        epsilon: float,
        centred: bool,
    ) -> Tensor:
        n = g.sum().clamp(min=1)
        x = torch.where(g != 0, x, 0)
        mean = (x @ g / n)[:, None] if centred else None
        d = x if mean is None else x - mean
        inverse = torch.rsqrt(d.square() @ g / n + epsilon)[:, None]
        ctx.save_for_backward(x, g, scale, mean, inverse)
        ctx.epsilon, ctx.has_bias = epsilon, bias is not None
        y = d * inverse
        y = y if scale is None else y * scale
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (x, g, scale, mean, inverse) = grads, ctx.saved_tensors
        total = g.sum()
        n = total.clamp(min=1)
        counts = (total >= 1).to(g.dtype)  # whether n follows the gates
        d = x if mean is None else x - mean
        scaled = dy if scale is None else dy * scale
        towards = (scaled * d).sum(1, keepdim=True)
        to_variance = -0.5 * inverse**3 * towards
        to_d = scaled * inverse + d * (g * (2 / n * to_variance))
        to_g = to_variance / n
        by_g = to_g[:, 0] @ d.square() - counts * (to_g * (inverse**-2 - ctx.epsilon)).sum()
        if mean is not None:
            to_mean = -to_d.sum(1, keepdim=True)
            to_d = to_d + to_mean * (g / n)
            by_g = by_g + (to_mean[:, 0] / n) @ x - counts * (to_mean * mean).sum() / n
        by_scale = (dy * d * inverse).sum(0) if scale is not None else None
        by_bias = dy.sum(0) if ctx.has_bias else None
        return torch.where(g != 0, to_d, 0), by_g, by_scale, by_bias, None, None
