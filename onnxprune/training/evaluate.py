"""Metrics of a model, and its BatchNorm statistics, over batches."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from onnxprune.to_torch.ops.norm import BatchNormalization
from onnxprune.training.batches import Batch
from onnxprune.training.tasks import Outputs, Task


def outputs_of(module: nn.Module, batch: Batch) -> Outputs:
    """The floating-point outputs, as float32: what a loss can be taken of."""
    result = module(*batch.inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    return tuple(output.float() for output in outputs if output.is_floating_point())


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    module: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    batches: Iterable[Batch],
) -> dict[str, float]:
    """The task's metrics over all `batches` of all processes, weighted by their sizes.

    In eval mode and without autocast: what the written model will give.
    """
    training, sums, seen = module.training, dict[str, Tensor](), 0
    module.eval()
    for batch in batches:
        outputs = outputs_of(module, batch)
        wanted = outputs_of(teacher, batch) if teacher is not None and task.taught else None
        for name, value in task.metrics(outputs, batch, wanted).items():
            sums[name] = sums.get(name, 0) + value.double() * len(batch)
        seen += len(batch)
    module.train(training)
    totals = torch.stack([*sums.values(), torch.tensor(float(seen)).to(accelerator.device)])
    totals = accelerator.reduce(totals, "sum").cpu()
    return {name: float(total / totals[-1]) for name, total in zip(sums, totals, strict=False)}


@torch.no_grad()
def remeasure(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace all running statistics by those of `batches`, equally weighted.

    The running averages lag behind gates that closed: with a momentum of 0.9 by some ten steps, with 0.99
    by hundreds. Accuracy at the freeze rose from 22 to 68, 51 to 76 and 71 to 79 % with this (ResNet-20,
    CIFAR-10).
    """
    norms = [child for child in module.modules() if isinstance(child, BatchNormalization)]
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
