"""Learning from the original model: its outputs again, alone or beside labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.training.batches import Batch
from onnxprune.training.scores import are_probabilities, logits_of
from onnxprune.training.tasks import Metrics, Outputs, Sums, Task, counted, ratio


@dataclass(frozen=True)
class Head:
    """How one output is matched: as `kind` "logits", "probabilities", "values" or, left out, "none".

    Class scores lie on `axis`, and are matched at every position of the other axes.
    """

    kind: str
    variance: float = 1.0
    axis: int = 1

    @staticmethod
    def of(samples: Tensor, axis: int | None = None) -> "Head":
        """Told from the original model's output on some samples; `axis` is where its classes are known to be.

        Without it only what cannot be anything else counts as class scores: probabilities that sum to 1, and
        (n, classes) with values outside 0 to 1.
        """
        variance = float(samples.var(correction=0)) if samples.numel() else 0.0
        if not 0 < variance < float("inf"):
            return Head("none")
        if axis is not None:
            return Head("probabilities" if are_probabilities(samples, axis) else "logits", variance, axis)
        axes = (1, -1) if samples.dim() > 2 else (1,) if samples.dim() == 2 else ()
        several = [axis for axis in axes if samples.shape[axis] > 1]
        for classes in several:
            if are_probabilities(samples, classes):
                return Head("probabilities", variance, classes)
        if samples.dim() == 2 and several and bool((samples < 0).any() or (samples > 1).any()):
            return Head("logits", variance)
        return Head("values", variance)

    def logits(self, output: Tensor) -> Tensor:
        """(positions, classes)."""
        return logits_of(output, self.axis, self.kind == "probabilities").movedim(1, -1).flatten(0, -2)

    def errors(self, output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The loss of every value, or of every position with class scores."""
        if self.kind == "values":
            return F.mse_loss(output, wanted, reduction="none") / self.variance
        ours, theirs = ((self.logits(o) / temperature).log_softmax(1) for o in (output, wanted))
        return F.kl_div(ours, theirs, log_target=True, reduction="none").sum(1).mul(temperature**2)

    def probe(self, output: Tensor) -> Tensor:
        """Its squared gradient is on average the curvature of the mean of `errors` at the original."""
        if self.kind == "values":
            return (output * torch.randn_like(output)).sum().div((output.numel() * self.variance) ** 0.5)
        logits = self.logits(output)
        drawn = torch.multinomial(logits.detach().softmax(1), 1).squeeze(1)
        return F.cross_entropy(logits, drawn, reduction="sum").div(len(logits) ** 0.5)


@dataclass(frozen=True)
class Distillation:
    """The original's outputs again: KL at `temperature` of class scores (Hinton, Vinyals, Dean; arXiv
    1503.02531), else squared error per variance; the mean over the outputs.
    """

    heads: tuple[Head, ...]
    temperature: float = 2.0
    taught: bool = True

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor:
        parts = [h.errors(o, t, self.temperature).mean() for _, h, o, t in self._heads(outputs, teacher)]
        return torch.stack(parts).mean()

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Sums:
        found = {}
        for number, head, output, wanted in self._heads(outputs, teacher):
            found[f"distillation/{number}"] = counted(head.errors(output, wanted, self.temperature))
            if head.kind != "values":
                same = head.logits(output).argmax(1) == head.logits(wanted).argmax(1)
                found[f"agreement/{number}"] = counted(same)
        return found

    def metrics(self, sums: Sums) -> Metrics:
        agreed, relative, losses = [], [], []
        for number, head in enumerate(self.heads):
            if head.kind == "none":
                continue
            losses.append(ratio(sums[f"distillation/{number}"]))
            if head.kind == "values":
                relative.append(losses[-1])
            else:
                agreed.append(ratio(sums[f"agreement/{number}"]))
        found = {"agreement": agreed, "relative_error": relative, "distillation": losses}
        return {name: sum(values) / len(values) for name, values in found.items() if values}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Its squared gradient is on average the curvature of `loss` at the original (Gauss-Newton)."""
        return torch.stack(
            [head.probe(output) for _, head, output, _ in self._heads(outputs, outputs)]
        ).mean()

    def _heads(self, outputs: Outputs, teacher: Outputs | None) -> list[tuple[int, Head, Tensor, Tensor]]:
        assert teacher is not None
        paired = enumerate(zip(self.heads, outputs, teacher, strict=True))
        return [(number, h, o, t) for number, (h, o, t) in paired if h.kind != "none"]


@dataclass(frozen=True)
class Mixed:
    """`weight` of distillation and the rest of the labels' task; the latter's metrics, and its probe."""

    labelled: Task
    distillation: Distillation
    weight: float
    taught: bool = True

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor:
        own = self.labelled.loss(outputs, batch, teacher)
        return (1 - self.weight) * own + self.weight * self.distillation.loss(outputs, batch, teacher)

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Sums:
        """Their names differ: the distillation's have a number."""
        own, distilled = (t.sums(outputs, batch, teacher) for t in (self.labelled, self.distillation))
        return own | distilled

    def metrics(self, sums: Sums) -> Metrics:
        own, distilled = (t.metrics(sums) for t in (self.labelled, self.distillation))
        return own | {name: value for name, value in distilled.items() if name not in own}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.labelled.probe(outputs, batch)
