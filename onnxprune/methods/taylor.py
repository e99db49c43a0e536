"""Squared first-order Taylor importance per unit cost: what a trained net's gates are ranked by.

The importance of a gate is the sum over batches of (dL/db)^2, b being its factor (Molchanov et al., Importance
estimation for neural network pruning, CVPR 2019, arXiv 1906.10771). Dividing by what the gate costs, and taking the
task's `probe` for the loss, are choices of this project.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from onnxprune.methods.method import Latents, Scores

OPEN, SPREAD = 0.1, 0.09
"""A ranked start lies in OPEN +- SPREAD: above 0 and near enough to cross it."""


def importance(losses: Iterable[Tensor], gates: Sequence[Tensor], *, shared: bool = False) -> Scores:
    """Shape (gates,): sum of (dL/db)^2 over `losses`, one a batch, or all of one `shared` forward pass."""
    total = torch.zeros(sum(w.numel() for w in gates), dtype=torch.float64)
    for loss in losses:
        grads = torch.autograd.grad(loss, gates, allow_unused=True, retain_graph=shared)
        flat = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, gates, strict=True)]
        total += torch.cat([g.detach().flatten() for g in flat]).to("cpu", torch.float64) ** 2
    return total.numpy()


def ranked_start(scores: Scores, unit: Scores) -> Latents:
    """Start at `w = 0.1 + 0.09 (2 p - 1)`, p the percentile of importance per unit cost over all gates.

    Equal starts make whole layers cross zero together: in a trained net a gate's task gradient is mostly
    noise, and the budget's is the same across a layer. Ties are ranked by position.
    """
    return spread(np.asarray(scores / unit))


def spread(scores: Scores) -> Latents:
    """Latents of all open gates in the order of `scores`."""
    order = np.argsort(scores, kind="stable")
    percentile = np.empty(len(scores))
    percentile[order] = np.arange(len(scores)) / max(len(scores) - 1, 1)
    return (OPEN + SPREAD * (2 * percentile - 1)).astype(np.float32)
