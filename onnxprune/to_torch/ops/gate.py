"""Gates: a channel's latent decides whether the channel passes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from onnxprune.to_torch.registry import converts


@converts("Gate", domain="onnxprune", since=1)
class Gate(nn.Module):
    """`x` where `w > 0`, else 0; with a `gate_value`, `x * gate_value(w)`. `w` broadcasts against `x`.

    Where the factor is 0 the result is 0, whatever a closed channel holds, infinity and NaN too. With
    `weights_instead`, so many entries, `x` is left to the FoldedGates of those weights wherever it has more.
    """

    def __init__(self, *, gate_value: Callable[[Tensor], Tensor] | None = None, to: int = 1) -> None:
        super().__init__()
        self.gate_value = gate_value
        self.weights_instead: int | None = None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.weights_instead is not None and not on_activations(x, self.weights_instead):
            return x
        if self.gate_value is None:
            return torch.where(w > 0, x, 0)
        return cast(Tensor, _Product.apply(x, self.gate_value(w).to(x.dtype)))


class FoldedGate(nn.Module):
    """A weight with its input channels, along `axis`, scaled by their gates, if those are not on the activations `x`.

    With several `groups` the axis holds the channels of one group, and axis 0 the outputs of one group after the
    other, as in a grouped convolution.
    """

    def __init__(
        self, gate_value: Callable[[Tensor], Tensor] | None, weights: int, axis: int, groups: int = 1
    ) -> None:
        super().__init__()
        self.gate_value, self.weights, self.axis, self.groups = gate_value, weights, axis, groups

    def forward(self, weight: Tensor, w: Tensor, x: Tensor) -> Tensor:
        if on_activations(x, self.weights):
            return weight
        factor = w > 0 if self.gate_value is None else self.gate_value(w).to(weight.dtype)
        if self.groups == 1:
            shape = [1] * weight.dim()
            shape[self.axis] = -1
        else:
            per_group = weight.shape[0] // self.groups
            factor = factor.reshape(self.groups, 1, -1).expand(-1, per_group, -1)
            shape = [weight.shape[0], -1, *[1] * (weight.dim() - 2)]
        return weight * factor.reshape(shape)


def on_activations(x: Tensor, weights: int) -> bool:
    """Whether gates cost less on `x` than on so many entries of weights; a program for all sizes has them there."""
    return torch.compiler.is_exporting() or x.numel() <= weights


class _Product(torch.autograd.Function):
    """`x * factor`, where 0 times infinity or NaN is 0, in the gradient of `factor` too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor)
        return torch.where(factor == 0, 0, x * factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (x, factor) = grads, ctx.saved_tensors
        to_x = grad * factor if ctx.needs_input_grad[0] else None
        to_factor = None
        if ctx.needs_input_grad[1]:
            finite = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
            to_factor = (grad * finite).sum_to_size(factor.shape)
        return to_x if to_x is None else to_x.sum_to_size(x.shape), to_factor
