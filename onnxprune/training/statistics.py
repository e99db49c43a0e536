"""BatchNorm's running statistics made those of its inputs, by which training normalises.

Where they are others, a model computes something else in training than it does as it is written: after gates have
closed, since the running averages lag behind, and where weights were fitted with BatchNorm as it was, such as by
`slim --data`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnxprune.to_torch.ops.norm import BatchNormalization
from onnxprune.training.batches import Batch

Loss = Callable[[Batch], Tensor]


@torch.no_grad()
def settle(module: nn.Module, batches: Callable[[], Iterable[Batch]], loss: Loss) -> bool:
    """Replaces all running statistics by those of `batches()`, the same at each call, and returns whether the module
    computes what it did: scales and shifts make up for other statistics where the loss is lower so.
    """
    if not _norms(module):
        return True
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    training, stays = module.training, _mean(module, batches(), loss)
    remeasure(module, batches())
    if _mean(module, batches(), loss) < stays:
        module.train(training)
        return False
    for name, tensor in module.state_dict().items():
        tensor.copy_(before[name])
    restate(module.eval(), batches())
    module.train(training)
    return True


@torch.no_grad()
def remeasure(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Replaces all running statistics by those of `batches`, equally weighted, and by nothing else.

    The running averages lag behind gates that closed: with a momentum of 0.9 by some ten steps, with 0.99 by hundreds.
    Accuracy at the freeze rose from 22 to 68, 51 to 76 and 71 to 79 % with this (ResNet-20, CIFAR-10).
    """
    norms = _norms(module)
    if not norms:
        return
    momenta, training = [norm.momentum for norm in norms], module.training
    module.train()
    for count, batch in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 - 1 / count  # ONNX's: what stays of the running value
        module(*batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.train(training)


@torch.no_grad()
def restate(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Replaces the running statistics of a module in eval mode by those of `batches`, and scale and shift so that it
    computes what it did. What is shared with others, or computed, stays.
    """
    seen: dict[nn.Module, _Seen] = {}

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x, *parts = args
        seen.setdefault(norm, _Seen(tuple(parts), norm.epsilon)).add(x)  # type: ignore[arg-type]

    hooks = [norm.register_forward_pre_hook(look) for norm in _norms(module) if norm.spatial]
    for batch in batches:
        module(*batch.inputs)
    for hook in hooks:
        hook.remove()
    times: dict[int, int] = {}
    for part in (part for one in seen.values() for part in one.parts):
        times[id(part)] = times.get(id(part), 0) + 1
    own = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for one in seen.values():
        if all(times[id(part)] == 1 and id(part) in own for part in one.parts):
            one.put()


@dataclass
class _Seen:
    """The inputs of a BatchNormalization: count, mean and sum of squared distances from it."""

    parts: tuple[Tensor, ...]
    """Scale, shift, mean and variance."""
    epsilon: float
    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x.double()
        count, mean = wide.numel() // wide.shape[1], wide.mean(axes)
        apart = mean - self.mean
        total = self.count + count
        self.squares = (
            self.squares + wide.var(axes, correction=0) * count + apart.square() * self.count * count / total
        )
        self.mean = self.mean + apart * count / total
        self.count = total

    def put(self) -> None:
        scale, shift, mean, var = self.parts
        new = torch.as_tensor(self.mean), torch.as_tensor(self.squares) / max(self.count - 1, 1)
        rate = scale.double() / (var.double() + self.epsilon).sqrt()
        shift.copy_(shift + rate * (new[0] - mean))
        scale.copy_(rate * (new[1] + self.epsilon).sqrt())
        mean.copy_(new[0])
        var.copy_(new[1])


def _norms(module: nn.Module) -> list[BatchNormalization]:
    return [child for child in module.modules() if isinstance(child, BatchNormalization)]


def _mean(module: nn.Module, batches: Iterable[Batch], loss: Loss) -> float:
    """Of the loss, in eval mode."""
    module.eval()
    return float(torch.stack([loss(batch) for batch in batches]).mean())
