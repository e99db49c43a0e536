"""The weights' optimizer."""

import torch
from torch import nn

from onnxprune.training.latents import Latents
from onnxprune.training.settings import Settings


def optimizer_of(module: nn.Module, latents: Latents, settings: Settings) -> torch.optim.SGD:
    """SGD for everything but the gates; weight decay for weights (rank 2 and more) only."""
    gates = {id(tensor) for tensor in latents.tensors}
    others = [p for p in module.parameters() if id(p) not in gates and p.requires_grad]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], settings.lr, settings.momentum, nesterov=settings.momentum > 0
    )
