"""Random weights with which a wrong channel cannot hide: nothing is zero, nothing is left at its first value."""

import math
from collections.abc import Callable

import torch
from torch import nn

CONTRACTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def randomize(module: nn.Module, calibrate: Callable[[], object] | None = None) -> nn.Module:
    """Random parameters of which none is zero, activations O(1) at every depth; returns the module in eval mode.

    Convolutions and linear layers are He-scaled; norms get gamma ~ U(0.5, 1.5) and beta ~ N(0, 0.3). `calibrate` runs
    the module once: the running statistics become those of that run, then are jittered, so that no BatchNorm is an
    exact whitening.
    """
    module.eval()
    with torch.no_grad():
        done: set[int] = set()
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if id(parameter) not in done and parameter.is_floating_point():
                    done.add(id(parameter))
                    _fill(part, name, parameter)
                    parameter[parameter == 0] = 1e-3  # a float32 normal is exactly zero once in some millions
        if calibrate is not None:
            _measure_norms(module, calibrate)
    return module.eval()


def _fill(part: nn.Module, name: str, parameter: torch.Tensor) -> None:
    if isinstance(part, CONTRACTIONS) and name == "weight":
        fan_in = parameter[0].numel()
        if isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            fan_in = parameter.shape[0] * parameter[0, 0].numel() // part.groups
        parameter.normal_(0, math.sqrt(2 / fan_in))
    elif isinstance(part, CONTRACTIONS):
        parameter.normal_(0, 0.2)
    elif isinstance(part, nn.Embedding):
        parameter.normal_(0, 1)
    elif isinstance(part, RECURRENT):
        parameter.mul_(1.5).add_(0.1 * torch.randn_like(parameter))
    elif isinstance(part, NORMS) or "norm" in type(part).__name__.lower():
        if name == "weight":
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, 0.3)
    elif parameter.ndim >= 2 and parameter.numel() > 1 and float(parameter.std()) > 1e-3:
        parameter.add_(0.5 * parameter.std() * torch.randn_like(parameter))
    else:  # layer scales, position tables, tokens, temperatures: often zero or one at first
        parameter.add_(0.3 * torch.randn_like(parameter))


def _measure_norms(module: nn.Module, calibrate: Callable[[], object]) -> None:
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the running statistics become those of the one batch below
        norm.train()
    calibrate()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_var.clamp_(min=1e-3)
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
