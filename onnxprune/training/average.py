"""The running mean of the weights, which generalises better than their last values (Polyak averaging)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from onnxprune.gates import PREFIX


class Average:
    """Exponential moving average of a module's weights and statistics in `mean`, a module like it.

    Its decay is at most (1 + n) / (10 + n) after n steps, so that the first weights do not linger.
    """

    def __init__(self, mean: nn.Module, module: nn.Module, decay: float) -> None:
        self.mean, self.decay = mean.eval().requires_grad_(False), decay
        self.copy(module)

    def copy(self, module: nn.Module) -> None:
        """Start anew from the weights as they are."""
        self.steps = 0
        self._each(module, lambda old, new: old.copy_(new))

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Take in the weights as they are after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self._each(module, lambda old, new: old.lerp_(new, 1 - decay))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return {f"mean/{name}": tensor for name, tensor in self.mean.state_dict().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        for name, tensor in self.mean.state_dict().items():
            tensor.copy_(tensors[f"mean/{name}"])
        self.steps = steps

    @torch.no_grad()
    def _each(self, module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        tensors = module.state_dict()
        for name, mean in self.mean.state_dict().items():
            if mean.is_floating_point() and not name.startswith(PREFIX):
                change(mean, tensors[name])
            else:
                mean.copy_(tensors[name])
