"""What is trained for: losses and metrics.

A task is called with the model's floating-point outputs (always a tuple), the batch, and the original
model's outputs where it asks for them. Your own is a function named `module:function`; it takes, by name,
any of `outputs`, `labels`, `inputs` and `teacher`, and returns a loss, or a loss and a dict of metrics
(means over the batch):

    def heatmap(outputs, labels): return F.mse_loss(outputs[0], labels)         # --task mytasks:heatmap
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch

Outputs: TypeAlias = tuple[Tensor, ...]
Metrics: TypeAlias = dict[str, Tensor]


class Task(Protocol):
    """`loss` to be minimised; `metrics` as means over the batch, the main one first; `probe` to rank gates
    by.

    `probe` is a loss whose squared gradients tell how much the outputs depend on a gate. It cannot be the
    loss itself where that is flat at the original model, as distillation from it is.
    """

    @property
    def taught(self) -> bool: ...

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor: ...

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Metrics: ...

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the first output against class numbers; negative labels are left out."""

    probabilities: bool = False
    taught: bool = False

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Tensor:
        logits, labels = self._matched(outputs, batch)
        return F.cross_entropy(logits, labels.clamp_min(-1), ignore_index=-1)

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Metrics:
        logits, labels = self._matched(outputs, batch)
        counted = labels >= 0
        correct = (logits.argmax(1) == labels)[counted].double().mean()
        return {"accuracy": correct, "loss": self.loss(outputs, batch)}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch)

    def _matched(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        scores, labels = outputs[0], labels_of(batch, "classification")
        if labels.is_floating_point():
            raise TrainingError("labels 'y' are floats, not class numbers: use the task regression")
        if labels.dim() == scores.dim() and labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
        if scores.dim() > 2 and scores.shape[:-1] == labels.shape and scores.shape[2:] != labels.shape[1:]:
            scores = scores.movedim(-1, 1)  # (n, positions, classes), as language models have it
        if scores.dim() != labels.dim() + 1 or scores.shape[2:] != labels.shape[1:]:
            raise TrainingError(
                f"labels 'y' {tuple(labels.shape)} do not fit the model's output {tuple(scores.shape)}: "
                "give one class number per prediction, or a task of your own"
            )
        return logits_of(scores, self.probabilities), labels

    def check(self, outputs: Outputs, batch: Batch) -> None:
        """Raises TrainingError where labels and output do not belong together."""
        logits, labels = self._matched(outputs, batch)
        if labels.numel() and int(labels.max()) >= logits.shape[1]:
            raise TrainingError(
                f"labels 'y' go up to {int(labels.max())}, but the model has {logits.shape[1]} classes: "
                "number them from 0"
            )


@dataclass(frozen=True)
class Regression:
    """Squared error of the first output against `y`, relative to the variance of `y`."""

    variance: float = 1.0
    taught: bool = False

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Tensor:
        values, labels = outputs[0], labels_of(batch, "regression").float()
        if labels.numel() != values.numel():
            raise TrainingError(
                f"labels 'y' {tuple(labels.shape)} do not fit the model's output {tuple(values.shape)}: "
                "give one target per output value"
            )
        return F.mse_loss(values, labels.reshape(values.shape)) / self.variance

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Metrics:
        relative = self.loss(outputs, batch)
        return {"relative_error": relative, "mse": relative * self.variance}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch)


@dataclass(frozen=True)
class Own:
    """A function of the user's; `asks` are the names it takes."""

    function: Callable[..., Any]
    asks: frozenset[str]

    @staticmethod
    def named(name: str) -> "Own":
        """The function `module:function`; TrainingError where there is none or it takes unknown names."""
        module, _, attribute = name.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise TrainingError(f"task {name}: {error}: give an importable module:function") from error
        if not callable(function):
            raise TrainingError(f"task {name} is a {type(function).__name__}, not a function")
        asks = frozenset(inspect.signature(function).parameters)
        known = {"outputs", "labels", "inputs", "teacher"}
        if not asks or asks - known:
            found = ", ".join(sorted(asks - known)) or "nothing"
            raise TrainingError(f"task {name} takes {found}: it may take {', '.join(sorted(known))}")
        return Own(function, asks)

    @property
    def taught(self) -> bool:
        return "teacher" in self.asks

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor:
        return self._call(outputs, batch, teacher)[0]

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Metrics:
        loss, metrics = self._call(outputs, batch, teacher)
        return {name: torch.as_tensor(value) for name, value in metrics.items()} | {"loss": loss}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch, tuple(o.detach() for o in outputs))

    def _call(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> tuple[Tensor, dict[str, Any]]:
        known = {"outputs": outputs, "labels": batch.labels, "inputs": batch.inputs, "teacher": teacher}
        result = self.function(**{name: value for name, value in known.items() if name in self.asks})
        loss, metrics = result if isinstance(result, tuple) else (result, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TrainingError(
                f"task {self.function.__name__} returned {type(loss).__name__}: return a scalar tensor"
            )
        return loss.reshape(()), metrics


def labels_of(batch: Batch, task: str) -> Tensor:
    if batch.labels is None:
        raise TrainingError(
            f"task {task} needs labels: add an array 'y' to the data, or train by distillation"
        )
    return batch.labels


def logits_of(scores: Tensor, probabilities: bool) -> Tensor:
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if probabilities else scores
