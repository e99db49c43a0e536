"""A pruned model taught by the original it was cut from, without labels."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune import to_torch
from onnxprune.training.augmentation import Augmentation, is_image
from onnxprune.training.batches import Batch, Batches, drawn
from onnxprune.training.data import Data
from onnxprune.training.distillation import Distillation, Head
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.schedule import factor

log = logging.getLogger(__name__)

MEASURED = 256  # samples, to tell kinds of outputs from and to measure on
WARMUP, CLIP = 0.05, 1.0
RATES = (1e-3, 3e-4, 1e-4)
"""Learning rates of AdamW to choose from, each tried for a tenth of all steps."""
TRIED = 0.1
ENOUGH = 1 / 3
"""Of those that gain this share of what the best gains the highest is taken: in the end it goes further."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train; without a learning rate it is chosen from RATES."""

    epochs: int
    seed: int
    batch_size: int
    lr: float | None
    augment: str
    names: frozenset[str] | None = None
    """Of the initializers to train; None for all."""


def taught(
    slim: onnx.ModelProto, dense: onnx.ModelProto, data: Data, held: Data, recipe: Recipe
) -> dict[str, np.ndarray]:
    """See onnxprune.distilled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student, teacher = (
            to_torch.load(model).to(memory_format=torch.channels_last) for model in (slim, dense)
        )
        lesson = Lesson(student, teacher, data, held, recipe)
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        why = _learned(lesson)
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
    lr = recipe.lr
    if lr is None:
        few = max(1, round(TRIED * steps))
        tried = {rate: lesson.tried(rate, few) for rate in RATES}
        lr = _rate({rate: start - distance for rate, distance in tried.items()})
        log.info("distances after %d steps, by learning rate: %s; it was %.4g", few, tried, start)
    why = lesson.train(lr, steps)
    if why is not None:
        return why
    end = lesson.distance()
    log.info(
        "distilled in %d steps of at most %g: the distance went from %.4g to %.4g", steps, lr, start, end
    )
    return None if end < start else f"the outputs' distance went from {start:.4g} to {end:.4g}"


def _rate(gains: Mapping[float, float]) -> float:
    """The learning rate to take, given what each gained in a short time."""
    best = max(gains.values())
    return max(rate for rate, gain in gains.items() if gain >= min(ENOUGH * best, best))


class Lesson:
    """The student, in eval mode as the teacher is, and what it is taught by."""

    def __init__(
        self, student: fx.GraphModule, teacher: fx.GraphModule, data: Data, held: Data, recipe: Recipe
    ) -> None:
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.recipe = recipe
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
        with torch.no_grad():
            found = [
                outputs_of(self.teacher, batch)
                for batch in self.batches.in_order(self.recipe.batch_size, MEASURED)
            ]
        return Distillation(tuple(Head.of(torch.cat(outputs)) for outputs in zip(*found, strict=True)))

    def apart(self, batch: Batch) -> Tensor:
        """The student's distance from the teacher on this batch."""
        with torch.no_grad():
            wanted = outputs_of(self.teacher, batch)
        return self.loss.loss(outputs_of(self.student, batch), batch, wanted)

    @torch.no_grad()
    def distance(self) -> float:
        """The same on held-out samples, mixed as those that are learned from, nan and infinity included."""
        steps = max(1, MEASURED // self.recipe.batch_size)
        parts = [self.apart(batch).item() for batch in self._mixed(self.held, steps)]
        return sum(parts) / len(parts)

    def tried(self, lr: float, steps: int) -> float:
        """The distance after so few steps, which are taken back; infinite where they lead nowhere."""
        before = [weight.detach().clone() for weight in self.weights]
        why = self.train(lr, steps)
        end = self.distance() if why is None else math.inf
        with torch.no_grad():
            for weight, value in zip(self.weights, before, strict=True):
                weight.copy_(value)
        return end if math.isfinite(end) else math.inf

    def train(self, lr: float, steps: int) -> str | None:
        """So many steps with this learning rate at its highest; why they led nowhere, or None."""
        optimizer = torch.optim.AdamW(self.weights, lr, weight_decay=0.0)
        for step, batch in enumerate(self._mixed(self.batches, steps)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor("cosine", step, steps, WARMUP)
            loss = self.apart(batch)
            if not math.isfinite(loss.item()):
                return f"the loss became {loss.item()} at step {step + 1} of {steps}"
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.weights, CLIP)
            optimizer.step()
        return None

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
