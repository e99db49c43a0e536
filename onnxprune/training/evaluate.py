"""Metrics of a model over batches."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from onnxprune.errors import TrainingError
from onnxprune.to_torch.source import ALSO
from onnxprune.training.batches import Batch
from onnxprune.training.tasks import Metrics, Outputs, Sums, Task

Values: TypeAlias = tuple[Tensor, ...]


def outputs_of(module: nn.Module, batch: Batch) -> Outputs:
    """The floating-point outputs, as float32: what a loss can be taken of."""
    return outputs_and_values(module, batch)[0]


def outputs_and_values(module: nn.Module, batch: Batch) -> tuple[Outputs, Values]:
    """The same, and the values that the module was loaded with `also`, in that order."""
    result = module(*batch.inputs)
    results = result if isinstance(result, tuple) else (result,)
    meta: Any = getattr(module, "meta", {})
    count = len(results) - len(meta.get(ALSO, ()))
    outputs, also = results[:count], results[count:]
    return tuple(o.float() for o in outputs if o.is_floating_point()), tuple(v.float() for v in also)


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    module: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    batches: Iterable[Batch],
) -> Metrics:
    """The task's metrics over all `batches` of all processes, the same however these are divided.

    In eval mode and without autocast: what the written model will give.
    """
    training, sums = module.training, Sums()
    module.eval()
    for batch in batches:
        outputs = outputs_of(module, batch)
        wanted = outputs_of(teacher, batch) if teacher is not None and task.taught else None
        sums = added([sums, task.sums(outputs, batch, wanted)])
    module.train(training)
    if accelerator.num_processes > 1:
        sums = added(gather_object([{name: part.cpu() for name, part in sums.items()}]))
    if not sums:
        raise TrainingError("there are no held-out samples: give more samples, or a larger share for them")
    return task.metrics(sums)


def added(parts: Iterable[Sums]) -> Sums:
    """Their totals by name, of all names that occur."""
    totals = Sums()
    for part in parts:
        for name, value in part.items():
            totals[name] = totals[name] + value if name in totals else value
    return totals
