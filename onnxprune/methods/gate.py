"""The exact gate: 1 or 0, with a gradient."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "one": torch.ones_like,
    "sigmoid": lambda w: torch.sigmoid(w) * torch.sigmoid(-w),
    "tanh": lambda w: 1 - torch.tanh(w) ** 2,
}
"""g(w): the gate's derivative in training."""


class _ExactLimit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, slope: str) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(w)
        return (w > 0).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (w,) = grads, ctx.saved_tensors
        return (grad if ctx.slope == "one" else grad * SLOPES[ctx.slope](w)), None


def gate(w: Tensor, slope: str = "one") -> Tensor:
    """b(w), 1 where w > 0 and 0 elsewhere, of w's shape and dtype; its gradient with respect to w is g(w)."""
    return cast(Tensor, _ExactLimit.apply(w, slope))
