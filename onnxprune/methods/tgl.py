"""TGL: plug-in, trainable gates (Kim, Park, Jung, Choe; AAAI 2020, arXiv 1904.10921).

The paper's gate is `f_M(w) = b(w) + s_M(w) * g(w)` with b(w) = 1 if w > 0 else 0 and
`s_M(w) = (M w - floor(M w)) / M`; as M grows, f_M -> b and f_M' -> g. Here is that limit itself: forward
b(w), backward g(w). So a closed gate is exactly 0, and what is trained is what is cut. Using the limit, and
how gates start, step and are clipped, are choices of this project, settled by measurement, not the words of
the paper.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Slope: TypeAlias = Literal["one", "sigmoid", "tanh"]

Latent: TypeAlias = NDArray[np.float32]

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "one": torch.ones_like,
    "sigmoid": lambda w: torch.sigmoid(w) * torch.sigmoid(-w),
    "tanh": lambda w: 1 - torch.tanh(w) ** 2,
}
"""g(w): the gate's derivative in training."""

OPEN, SPREAD = (
    0.1,
    0.09,
)  # a ranked start lies in OPEN +- SPREAD: above 0 and near enough to cross it


class _ExactLimit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, slope: Slope) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(w)
        return (w > 0).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (w,) = grads, ctx.saved_tensors
        return (grad if ctx.slope == "one" else grad * SLOPES[ctx.slope](w)), None


def gate(w: Tensor, slope: Slope = "one") -> Tensor:
    """b(w), 1 where w > 0 and 0 elsewhere, of w's shape and dtype; its gradient with respect to w is g(w)."""
    return cast(Tensor, _ExactLimit.apply(w, slope))


@dataclass(frozen=True)
class Tgl:
    """The settings of trainable gates: how a gate's value comes from w, where w starts and how it moves."""

    lr: float = 0.1
    clip: float = 0.1
    slope: Slope = "one"

    def value(self, w: Tensor) -> Tensor:
        """The mask of latent w, in training and in evaluation alike."""
        return gate(w, self.slope)

    def step(self, w: Latent, grad: Latent, unit: NDArray[np.float64]) -> Latent:
        """One step of plain SGD on all gates (flat), without momentum or weight decay.

        Unit costs differ many-fold between groups, so each gradient is divided by its gate's `unit` cost
        (relative to the mean), then clipped to +-`clip`: no gate moves further than `lr * clip` in a step.
        """
        return w - np.float32(self.lr) * np.clip(grad / unit, -self.clip, self.clip).astype(np.float32)


def importance(losses: Iterable[Tensor], gates: Sequence[Tensor]) -> NDArray[np.float64]:
    """Squared first-order Taylor importance, flat: sum of (dL/db)^2 over `losses`, one a batch."""
    total = torch.zeros(sum(w.numel() for w in gates), dtype=torch.float64)
    for loss in losses:
        grads = torch.autograd.grad(loss, gates, allow_unused=True)
        flat = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, gates, strict=True)]
        total += torch.cat([g.detach().flatten() for g in flat]).to("cpu", torch.float64) ** 2
    return total.numpy()


def ranked_start(scores: NDArray[np.float64], unit: NDArray[np.float64]) -> Latent:
    """Start at `w = 0.1 + 0.09 (2 p - 1)`, p the percentile of importance per unit cost over all gates.

    Equal starts make whole layers cross zero together: in a trained net a gate's task gradient is mostly
    noise, and the budget's is the same across a layer. Ties are ranked by position.
    """
    order = np.argsort(scores / unit, kind="stable")
    percentile = np.empty(len(scores))
    percentile[order] = np.arange(len(scores)) / max(len(scores) - 1, 1)
    return (OPEN + SPREAD * (2 * percentile - 1)).astype(np.float32)
