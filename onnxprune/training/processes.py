"""One process or many: Accelerate's view of them, and means over all of them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed.nn.functional as across
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, fx

from onnxprune.errors import TrainingError
from onnxprune.to_torch.operands import Statistic
from onnxprune.to_torch.ops.norm import BatchNormalization
from onnxprune.training.settings import Settings


def accelerator_for(settings: Settings) -> Accelerator:
    """The Accelerator of a run; under `accelerate launch` or `torchrun` one of many."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for, but PyTorch sees no GPU: use device auto or cpu")
    alone = AcceleratorState._shared_state.get("num_processes", 1) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)  # an earlier run may have used another precision
    return Accelerator(cpu=settings.device == "cpu")


def leave() -> None:
    """Parts from the other processes of a run, where there are any: the threads that talk to them can abort a process
    that ends beside them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def average(accelerator: Accelerator, tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by their mean over all processes, in one transfer per element type."""
    if accelerator.num_processes == 1:
        return
    for dtype in {tensor.dtype for tensor in tensors if tensor.is_floating_point()}:
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = accelerator.reduce(torch.cat([tensor.detach().flatten() for tensor in same]), "mean")
        with torch.no_grad():
            for tensor, mean in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
                tensor.copy_(mean.view(tensor.shape))


def synchronise(accelerator: Accelerator, module: fx.GraphModule) -> fx.GraphModule:
    """In training its BatchNormalizations take the statistics of all processes' samples, as one process would.

    So a run gives the same result however many processes share a batch. On a CPU too, which torch.nn.SyncBatchNorm
    does not know.
    """
    if accelerator.num_processes > 1:
        for child in module.modules():
            if isinstance(child, BatchNormalization) and child.spatial:
                child.forward = _Synchronised(child)  # type: ignore[method-assign]
    return module


class _Synchronised:
    """The forward of a BatchNormalization over all processes."""

    def __init__(self, norm: BatchNormalization) -> None:
        self.norm, self.alone = norm, norm.forward

    def __call__(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Statistic, var: Statistic) -> Any:
        if not self.norm.training or getattr(self.norm, "training_mode", False):
            return self.alone(x, scale, bias, mean, var)
        axes, wide = [axis for axis in range(x.dim()) if axis != 1], x.float()
        own = torch.cat([wide.sum(axes), wide.new_tensor([wide.numel() / wide.shape[1]])])
        totals = across.all_reduce(own)  # type: ignore[no-untyped-call]
        count = totals[-1].detach()
        middle = totals[:-1] / count
        shape = [1, -1, *[1] * (x.dim() - 2)]
        squares = (wide - middle.view(shape)).square().sum(axes)
        spread = across.all_reduce(squares) / count  # type: ignore[no-untyped-call]
        with torch.no_grad():
            keep = self.norm.momentum
            mean.mul_(keep).add_(middle.to(mean.dtype), alpha=1 - keep)
            unbiased = spread * (count / (count - 1).clamp_min(1))
            var.mul_(keep).add_(unbiased.to(var.dtype), alpha=1 - keep)
        factor = torch.rsqrt(spread + self.norm.epsilon) * scale.float()
        y = torch.addcmul((bias.float() - middle * factor).view(shape), wide, factor.view(shape))
        return y.to(x.dtype)
