"""Which task a run is for, from its name, the data and what the original model puts out."""

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch, Batches
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.own_task import Own, own_task
from onnxprune.training.scores import are_probabilities, pixel_axis, position_axis
from onnxprune.training.segmentation import Segmentation, masks_of
from onnxprune.training.settings import Settings
from onnxprune.training.tasks import (
    Classification,
    Outputs,
    Regression,
    Task,
    is_distribution,
    labels_of,
)

SAMPLES = 1024  # from which the kind and the variance of the outputs are told
ENTRIES = 1 << 25  # of the outputs held for that: fewer samples where these are large
DISTILLED = 0.9  # weight of distillation beside labels, where nothing else is asked
NAMES = "auto, classification, segmentation, regression, distillation or module:object"

Labelled: TypeAlias = Classification | Segmentation | Regression


@torch.no_grad()
def task_for(settings: Settings, teacher: nn.Module, data: Batches, own: Own | None = None) -> Task:
    """The task of a run, told from the original model's outputs on some samples; `own` where it was imported."""
    count = math.ceil(SAMPLES / settings.batch_size)
    found, labels, entries = list[Outputs](), list[Tensor](), 0
    for batch in data.sampled(count, settings.batch_size, settings.seed):
        found.append(outputs_of(teacher, batch))
        if isinstance(batch.labels, Tensor):
            labels.append(batch.labels)
        entries += sum(output.numel() for output in found[-1])
        if entries > ENTRIES:
            break
    outputs = tuple(map(torch.cat, zip(*found, strict=True)))
    own = own or own_task(settings.task)
    known = Batch((), torch.cat(labels) if labels and own is None else None)
    return choose(
        settings.task, known, outputs, distill=settings.distill, temperature=settings.temperature, own=own
    )


def choose(
    name: str,
    batch: Batch,
    teacher: Outputs,
    *,
    distill: float | None,
    temperature: float,
    own: Own | None = None,
) -> Task:
    """The task called `name`, for a model with outputs `teacher` on `batch`, some training samples."""
    own = own or own_task(name)
    weight = (DISTILLED if name == "auto" else 0.0) if distill is None else distill
    if own is not None and weight == 0:
        return own
    if not teacher:
        raise TrainingError("the model has no floating-point output to train: give a task of your own")
    labelled, axis = (None, None) if own is not None else _labelled(name, batch, teacher[0])
    heads = (Head.of(teacher[0], axis), *map(Head.of, teacher[1:]))
    distillation = Distillation(heads, temperature)
    task: Task | None = own or labelled
    if (task is None or weight > 0) and all(head.kind == "none" for head in heads):
        raise TrainingError("the model's outputs are constant on the data: there is nothing to distil")
    if task is None:
        return distillation
    if isinstance(task, Regression):
        task.loss(teacher, batch)  # says so where the shapes do not fit
    elif isinstance(task, Classification | Segmentation):
        task.check(teacher, batch)
    return Mixed(task, distillation, weight) if weight > 0 else task


def classes_of(task: Task) -> int | None:
    """How many classes one prediction per sample has, which mixup and cutmix must know; None for other tasks."""
    labelled = task.labelled if isinstance(task, Mixed) else task
    return labelled.classes if isinstance(labelled, Classification) else None


def _labelled(name: str, batch: Batch, scores: Tensor) -> tuple[Labelled | None, int | None]:
    """The task of the labels, None for distillation alone; and the axis of classes where the labels tell it."""
    if name == "distillation":
        try:
            return None, None if batch.labels is None else _labelled("auto", batch, scores)[1]
        except TrainingError:  # labels for something else
            return None, None
    if name == "auto" and batch.labels is None:
        return None, None
    labels = labels_of(batch, name)
    kind = _kind_of(labels, scores) if name == "auto" else name
    if kind == "regression":
        return Regression(max(float(labels.float().var(correction=0)), 1e-12)), None
    if kind == "segmentation":
        axis = pixel_axis(scores, masks_of(labels, scores.dim()))
        return Segmentation(axis, are_probabilities(scores, axis)), axis
    if kind == "classification":
        told = _class_axis(scores, labels)
        several = scores.shape[1] if scores.dim() == 2 and scores.shape[1] > 1 else None
        return Classification(are_probabilities(scores, 1 if told is None else told), several), told
    raise TrainingError(f"task {name!r} is unknown: give {NAMES}")


def _kind_of(labels: Tensor, scores: Tensor) -> str:
    """What the labels are for, if nothing was said."""
    if labels.is_floating_point():
        soft = labels.shape == scores.shape and is_distribution(labels)
        return "classification" if soft else "regression"
    if scores.dim() >= 4 and masks_of(labels, scores.dim()).dim() == scores.dim() - 1:
        return "segmentation"
    return "classification"


def _class_axis(scores: Tensor, labels: Tensor) -> int | None:
    """Where distillation need not tell by itself: at every position, or of a single score."""
    if labels.is_floating_point():
        return None
    if labels.dim() == scores.dim() and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    axis = position_axis(scores, labels)
    return axis if scores.dim() > 2 or scores.shape[axis] == 1 else None
