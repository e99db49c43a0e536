"""The weights' optimizer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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


def momenta(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The momentum of each parameter that has one, by the parameter's name."""
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        momentum = optimizer.state[tensor].get("momentum_buffer") if tensor in optimizer.state else None
        if momentum is not None:
            found[name] = momentum
    return found


def set_momenta(module: nn.Module, optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> None:
    """Continue with these momenta."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in values:
            optimizer.state[tensor]["momentum_buffer"] = torch.empty_like(tensor.detach()).copy_(values[name])
