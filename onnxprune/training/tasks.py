"""What is trained for: losses and metrics.

A task is called with the model's floating-point outputs (always a tuple), the batch, and the original
model's outputs where it is `taught`. Metrics are exact over any number of batches and processes: `sums` are
added up over all of them, and `metrics` are taken of the totals.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.scores import are_probabilities, check_classes, logits_of, position_axis

Outputs: TypeAlias = tuple[Tensor, ...]
Sums: TypeAlias = dict[str, Tensor]
Metrics: TypeAlias = dict[str, float]

TOP5_FROM = 20  # classes


class Task(Protocol):
    """`loss` to be minimised; `metrics`, the main one first, of `sums` that were added up over batches;
    `probe` to rank gates by.

    `probe` is a loss whose squared gradients tell how much the outputs depend on a gate. It cannot be the
    loss itself where that is flat at the original model, as distillation from it is.
    """

    @property
    def taught(self) -> bool: ...

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor: ...

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Sums: ...

    def metrics(self, sums: Sums) -> Metrics: ...

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the first output against class numbers or, as mixup and cutmix make them, class probabilities.

    Negative class numbers are left out. The accuracy of probabilities is that of the likeliest class. `classes` are
    those of an output (n, classes).
    """

    probabilities: bool = False
    classes: int | None = None
    taught: bool = False

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Tensor:
        return mean(self._cross_entropy(*self._matched(outputs, batch)))

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Sums:
        logits, labels = self._matched(outputs, batch)
        wanted = labels.argmax(1) if labels.is_floating_point() else labels
        found = {
            "accuracy": counted(logits.argmax(1) == wanted, wanted >= 0),
            "loss": self._cross_entropy(logits, labels),
        }
        if logits.shape[1] >= TOP5_FROM:
            hit = (logits.topk(5, 1).indices == wanted.unsqueeze(1)).any(1)
            found["top5_accuracy"] = counted(hit, wanted >= 0)
        return found

    def metrics(self, sums: Sums) -> Metrics:
        names = ("accuracy", "top5_accuracy", "loss")
        return {name: ratio(sums[name]) for name in names if name in sums}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            return counted(F.cross_entropy(logits, labels, reduction="none"))
        losses = F.cross_entropy(logits, labels.clamp_min(-1), ignore_index=-1, reduction="none")
        return counted(losses, labels >= 0)

    def _matched(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        scores, labels = outputs[0], labels_of(batch, "classification")
        if labels.is_floating_point():
            if labels.shape != scores.shape:
                raise TrainingError(
                    f"labels 'y' are floats {tuple(labels.shape)}, neither class numbers nor probabilities "
                    f"for the model's output {tuple(scores.shape)}: use the task regression"
                )
            return logits_of(scores, 1, self.probabilities), labels
        if labels.dim() == scores.dim() and labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
        return logits_of(scores, position_axis(scores, labels), self.probabilities), labels

    def check(self, outputs: Outputs, batch: Batch) -> None:
        """Raises TrainingError where labels and output do not belong together."""
        logits, labels = self._matched(outputs, batch)
        if not labels.is_floating_point():
            check_classes(labels, logits.shape[1])
        elif not is_distribution(labels):
            raise TrainingError("labels 'y' are no class probabilities: use the task regression")


@dataclass(frozen=True)
class Regression:
    """Squared error of the first output against `y`, relative to the variance of `y`."""

    variance: float = 1.0
    taught: bool = False

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Tensor:
        return self._squares(outputs, batch).mean() / self.variance

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Sums:
        return {"mse": counted(self._squares(outputs, batch))}

    def metrics(self, sums: Sums) -> Metrics:
        error = ratio(sums["mse"])
        return {"relative_error": error / self.variance, "mse": error}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch)

    def _squares(self, outputs: Outputs, batch: Batch) -> Tensor:
        values, labels = outputs[0], labels_of(batch, "regression").float()
        if labels.numel() != values.numel():
            raise TrainingError(
                f"labels 'y' {tuple(labels.shape)} do not fit the model's output {tuple(values.shape)}: "
                "give one target per output value"
            )
        return (values - labels.reshape(values.shape)).square()


def counted(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """(2,): the sum of the values (where `counts`), and their number, which add up over batches.

    In float64, so that no metric depends on how the samples were batched.
    """
    counts = torch.ones_like(values, dtype=torch.bool) if counts is None else counts
    kept = torch.where(counts, values, torch.zeros_like(values))
    return torch.stack([kept.sum(dtype=torch.float64), counts.sum(dtype=torch.float64)])


def mean(sums: Tensor) -> Tensor:
    """The loss that `counted` gave; 0 where nothing counted, so that a batch without labels trains nothing."""
    return (sums[0] / sums[1].clamp_min(1)).float()


def ratio(sums: Tensor) -> float:
    """The metric that `counted` gave. Raises TrainingError where nothing counted."""
    if not sums[1]:
        raise TrainingError("no label of the held-out samples counts: all are ignored ones")
    return float(sums[0] / sums[1])


def labels_of(batch: Batch, task: str) -> Tensor:
    if not isinstance(batch.labels, Tensor):
        raise TrainingError(
            f"task {task} needs labels: add an array 'y' to the data, or train by distillation"
        )
    return batch.labels


def is_distribution(labels: Tensor) -> bool:
    """Whether labels (n, classes, ...) are floats that make one probability distribution per sample."""
    several = labels.dim() > 1 and labels.shape[1] > 1
    return labels.is_floating_point() and several and are_probabilities(labels, 1)
