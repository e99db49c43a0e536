"""Which task a run is for, from its name, the data and what the original model puts out."""

import math

import torch
from torch import nn

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch, Batches
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.settings import Settings
from onnxprune.training.tasks import Classification, Outputs, Own, Regression, Task, labels_of

SAMPLES = 1024  # from which the kind and the variance of the outputs are told
DISTILLED = 0.9  # weight of distillation beside labels, where nothing else is asked


@torch.no_grad()
def task_for(settings: Settings, teacher: nn.Module, data: Batches) -> Task:
    """The task of a run, told from the original model's outputs on some samples."""
    count = math.ceil(SAMPLES / settings.batch_size)
    batches = list(data.sampled(count, settings.batch_size, settings.seed))
    outputs = tuple(map(torch.cat, zip(*(outputs_of(teacher, batch) for batch in batches), strict=True)))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    known = Batch((), torch.cat(labels) if labels else None)
    return choose(settings.task, known, outputs, distill=settings.distill, temperature=settings.temperature)


def choose(name: str, batch: Batch, teacher: Outputs, *, distill: float | None, temperature: float) -> Task:
    """The task called `name`, for a model with outputs `teacher` on `batch`, some training samples."""
    if ":" in name:
        return Own.named(name)
    if not teacher:
        raise TrainingError("the model has no floating-point output to train: give a task of your own")
    heads = tuple(Head.of(output) for output in teacher)
    distillation = Distillation(heads, temperature)
    weight = (DISTILLED if name == "auto" else 0.0) if distill is None else distill
    if name == "distillation" or (name == "auto" and batch.labels is None):
        if all(head.kind == "none" for head in heads):
            raise TrainingError("the model's outputs are constant on the data: there is nothing to distil")
        return distillation
    labels = labels_of(batch, name)
    task: Task
    if name == "regression" or (name == "auto" and labels.is_floating_point()):
        task = Regression(max(float(labels.float().var(correction=0)), 1e-12))
        task.loss(teacher, batch)  # says so where the shapes do not fit
    elif name in ("auto", "classification"):
        classification = Classification(heads[0].kind == "probabilities")
        classification.check(teacher, batch)
        task = classification
    else:
        raise TrainingError(
            f"task {name!r} is unknown: give auto, classification, regression, distillation, module:name"
        )
    return Mixed(task, distillation, weight) if weight > 0 else task
