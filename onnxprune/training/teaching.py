"""A pruned model taught by the original it was cut from, without labels."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from onnxprune import to_torch
from onnxprune.training.augmentation import Augmentation, is_image
from onnxprune.training.batches import Batch, Batches, drawn
from onnxprune.training.data import Data
from onnxprune.training.distillation import Distillation, Head
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.folding import fold_norms
from onnxprune.training.memory import kept
from onnxprune.training.muon import MuonAndAdamW
from onnxprune.training.schedule import factor
from onnxprune.training.side_by_side import SideBySide
from onnxprune.training.tasks import Outputs

log = logging.getLogger(__name__)

MEASURED = 256  # samples, to tell kinds of outputs from and to measure on
WARMUP = 0.05
TEMPERATURE = 4.0
"""At 1 the model learns to be less sure of itself before it learns the classes."""
KEPT = 1 << 31
"""Bytes that may be kept at once for backward passes: what needs more is divided further."""
TOLD = 1 << 28
"""Bytes of outputs that tell their kinds well enough."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train."""

    epochs: int
    seed: int
    batch_size: int
    lr: float
    augment: str
    names: frozenset[str] | None = None
    """Of the initializers to train; None for all."""
    divided: bool = True
    """Whether the models take parts of a batch as well."""


def taught(
    slim: onnx.ModelProto, dense: onnx.ModelProto, data: Data, held: Data, recipe: Recipe
) -> dict[str, np.ndarray]:
    """See onnxprune.distilled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student, teacher = (
            fold_norms(to_torch.load(model)).to(memory_format=torch.channels_last) for model in (slim, dense)
        )
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        with SideBySide(None if recipe.divided else 1) as threads:
            why = _learned(Lesson(student, teacher, data, held, recipe, threads))
    if why is not None:
        log.warning("distillation did not help: %s", why)
        return {}
    known = {tensor.name for tensor in slim.graph.initializer}
    after = {name: tensor for name, tensor in student.state_dict().items() if name in known}
    return {
        name: np.ascontiguousarray(tensor.numpy())
        for name, tensor in after.items()
        if not torch.equal(tensor, before[name])
    }


def _learned(lesson: "Lesson") -> str | None:
    """Trains the student; why it is no better for it, or None."""
    if not lesson.weights:
        return "there are no float32 weights to train"
    if all(head.kind == "none" for head in lesson.loss.heads):
        return "the outputs are constant on the samples"
    recipe, start = lesson.recipe, lesson.distance()
    if not math.isfinite(start):
        return f"the outputs' distance is {start}"
    steps = max(1, len(lesson.batches.data) // recipe.batch_size) * recipe.epochs
    why = lesson.train(steps)
    if why is not None:
        return why
    end = lesson.distance()
    log.info("distilled in %d steps: the distance went from %.4g to %.4g", steps, start, end)
    return None if end < start else f"the outputs' distance went from {start:.4g} to {end:.4g}"


class Lesson:
    """The student, in eval mode as the teacher is, and what it is taught by."""

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        data: Data,
        held: Data,
        recipe: Recipe,
        threads: SideBySide,
    ) -> None:
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.recipe, self.threads = recipe, threads
        self.batches, self.held = (
            Batches(part, torch.device("cpu"), channels_last=True) for part in (data, held)
        )
        for name, weight in student.named_parameters():
            weight.requires_grad_(
                weight.dtype == torch.float32 and (recipe.names is None or name in recipe.names)
            )
        self.weights = [weight for weight in student.parameters() if weight.requires_grad]
        self.mixing = _mixing(data, recipe.augment)

    @cached_property
    def loss(self) -> Distillation:
        """With the kinds and variances of the teacher's outputs."""
        found: list[Outputs] = []
        with torch.no_grad():
            for batch in self.batches.in_order(min(self.recipe.batch_size, self.at_once), MEASURED):
                found.append(outputs_of(self.teacher, batch))
                if len(found) * sum(output.nbytes for output in found[0]) >= TOLD:
                    break
        heads = tuple(Head.of(torch.cat(outputs)) for outputs in zip(*found, strict=True))
        return Distillation(heads, TEMPERATURE)

    @cached_property
    def at_once(self) -> int:
        """Samples whose backward passes find room side by side."""
        if not self.recipe.divided:
            return self.recipe.batch_size
        one, weights = next(iter(self.batches.in_order(1, 1))), self.student.state_dict().values()
        return max(KEPT // max(kept(lambda: outputs_of(self.student, one), weights), 1), 1)

    def apart(self, batch: Batch) -> Tensor:
        """The student's distance from the teacher on this batch."""
        with torch.no_grad():
            wanted = outputs_of(self.teacher, batch)
        return self.loss.loss(outputs_of(self.student, batch), batch, wanted)

    def distance(self) -> float:
        """The same on held-out samples, mixed as those that are learned from, nan and infinity included."""

        @torch.no_grad()
        def of(part: Batch) -> tuple[float, int]:
            return self.apart(part).item(), len(part)

        steps = max(1, MEASURED // self.recipe.batch_size)
        parts = [
            part
            for batch in self._mixed(self.held, steps)
            for together in self._together(batch)
            for part in self.threads.map(of, together)
        ]
        return sum(loss * size for loss, size in parts) / sum(size for _, size in parts)

    def train(self, steps: int) -> str | None:
        """So many steps; why they led nowhere, or None."""
        optimizer = MuonAndAdamW(self.weights, threads=self.threads)
        for step, batch in enumerate(self._mixed(self.batches, steps)):
            loss = self._backward(batch)
            if not math.isfinite(loss):
                return f"the loss became {loss} at step {step + 1} of {steps}"
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * factor("linear", step, steps, WARMUP)
            optimizer.step()
        return None

    def _backward(self, batch: Batch) -> float:
        """The loss, and the weights' `grad` set to its gradients."""

        def of(part: Batch) -> tuple[float, Sequence[Tensor]]:
            loss = self.apart(part) * (len(part) / len(batch))
            return loss.item(), torch.autograd.grad(loss, self.weights, materialize_grads=True)

        total = 0.0
        for weight in self.weights:
            weight.grad = None
        for together in self._together(batch):
            for loss, gradients in self.threads.map(of, together):
                total += loss
                for weight, gradient in zip(self.weights, gradients, strict=True):
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient
        return total

    def _together(self, batch: Batch) -> list[list[Batch]]:
        """The parts of a batch that are at work side by side, in turn."""
        rounds = -(-len(batch) // self.at_once)
        return [part.divided(self.threads.parts) for part in batch.divided(rounds)]

    def _mixed(self, batches: Batches, steps: int) -> Iterator[Batch]:
        """One batch for each step."""
        draws = drawn(len(batches.data), self.recipe.batch_size, self.recipe.seed, range(steps))
        return batches.drawn(draws, self.mixing, self.recipe.seed)


def _mixing(data: Data, names: str) -> Augmentation | None:
    """What to do to the samples, if all inputs are images of floats."""
    mixing = Augmentation.of(names)
    if mixing is None:
        return None
    if not all(
        is_image(column) and (column.pixels is None or column.pixels.dtype.kind == "f")
        for column in data.columns
    ):
        log.info("the samples are no images of floats: they are taken as they are")
        return None
    mixing.check(data)
    return mixing
