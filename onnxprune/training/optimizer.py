"""The weights' optimizer, and what it remembers of each weight."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onnxprune.training.latents import Parameters
from onnxprune.training.muon import MuonAndAdamW
from onnxprune.training.settings import Settings

Memory = dict[str, dict[str, Tensor]]
"""By what it is ("momentum_buffer", "exp_avg", ...) and the weight's name."""


def optimizer_of(module: nn.Module, latents: Parameters, settings: Settings) -> torch.optim.Optimizer:
    """For everything but the gates; weight decay for weights (rank 2 and more) only."""
    gates = {id(tensor) for tensor in latents.tensors}
    others = [p for p in module.parameters() if id(p) not in gates and p.requires_grad]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": settings.decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.peak_lr)
    if settings.optimizer == "muon":
        return MuonAndAdamW(groups, settings.peak_lr)
    return torch.optim.SGD(groups, settings.peak_lr, settings.momentum, nesterov=settings.momentum > 0)


def memory_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> Memory:
    """The tensors it has for each parameter, not copies; numbers of steps are of shape ()."""
    found: Memory = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        for kind, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor):
                found.setdefault(kind, {})[name] = value
    return found


def remember(
    module: nn.Module, optimizer: torch.optim.Optimizer, memory: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Continue with these, copied; where they are needed, in the weights' own layout."""
    tensors = module.state_dict(keep_vars=True)
    for kind, values in memory.items():
        for name, value in values.items():
            tensor = tensors[name]
            like = torch.empty_like(tensor.detach()) if value.dim() else torch.empty((), dtype=value.dtype)
            optimizer.state[tensor][kind] = like.copy_(value)
