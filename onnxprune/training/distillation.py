"""Learning from the original model: its outputs again, alone or beside labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.training.batches import Batch
from onnxprune.training.tasks import Metrics, Outputs, Task, logits_of


@dataclass(frozen=True)
class Head:
    """How one output is matched: as `kind` "logits", "probabilities", "values" or, left out, "none"."""

    kind: str
    variance: float = 1.0

    @staticmethod
    def of(samples: Tensor) -> "Head":
        """Told from the original model's output on some samples."""
        variance = float(samples.var(correction=0)) if samples.numel() else 0.0
        if not 0 < variance < float("inf"):
            return Head("none")
        if samples.dim() == 2 and samples.shape[1] > 1:
            if bool(
                (samples >= 0).all() and torch.allclose(samples.sum(1), torch.ones(()).to(samples), atol=1e-3)
            ):
                return Head("probabilities", variance)
            if bool((samples < 0).any() or (samples > 1).any()):
                return Head("logits", variance)
        return Head("values", variance)


@dataclass(frozen=True)
class Distillation:
    """The original's outputs again: KL at `temperature` of class scores, else squared error per variance."""

    heads: tuple[Head, ...]
    temperature: float = 2.0
    taught: bool = True

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor:
        parts = [self._part(h, o, t) for h, o, t in self._heads(outputs, teacher)]
        return torch.stack(parts).mean()

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Metrics:
        agreed, errors = [], []
        for head, output, wanted in self._heads(outputs, teacher):
            if head.kind == "values":
                errors.append(F.mse_loss(output, wanted) / head.variance)
            else:
                agreed.append((output.argmax(1) == wanted.argmax(1)).double().mean())
        found = {"agreement": agreed, "relative_error": errors}
        means = {name: torch.stack(values).mean() for name, values in found.items() if values}
        return means | {"distillation": self.loss(outputs, batch, teacher)}

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Its squared gradient is on average the curvature of `loss` at the original (Gauss-Newton)."""
        parts = []
        for head, output, _ in self._heads(outputs, outputs):
            if head.kind == "values":
                noise = torch.randn_like(output)
                parts.append((output * noise).sum() / (output.numel() * head.variance) ** 0.5)
            else:
                logits = logits_of(output, head.kind == "probabilities")
                drawn = torch.multinomial(logits.detach().softmax(1), 1).squeeze(1)
                parts.append(F.cross_entropy(logits, drawn))
        return torch.stack(parts).mean()

    def _heads(self, outputs: Outputs, teacher: Outputs | None) -> list[tuple[Head, Tensor, Tensor]]:
        assert teacher is not None
        paired = zip(self.heads, outputs, teacher, strict=True)
        return [(h, o, t) for h, o, t in paired if h.kind != "none"]

    def _part(self, head: Head, output: Tensor, wanted: Tensor) -> Tensor:
        if head.kind == "values":
            return F.mse_loss(output, wanted) / head.variance
        ours, theirs = (
            logits_of(o, head.kind == "probabilities") / self.temperature for o in (output, wanted)
        )
        divergence = F.kl_div(
            ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="batchmean"
        )
        return divergence * self.temperature**2


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

    def metrics(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Metrics:
        return self.labelled.metrics(outputs, batch, teacher) | self.distillation.metrics(
            outputs, batch, teacher
        )

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.labelled.probe(outputs, batch)
