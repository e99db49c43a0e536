"""A pruned model taught by the original it was cut from, without labels."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune import to_torch
from onnxprune.training.augmentation import Augmentation, is_image
from onnxprune.training.batches import Batch, Batches, drawn
from onnxprune.training.data import Data
from onnxprune.training.distillation import Distillation, Head
from onnxprune.training.evaluate import Values, outputs_and_values
from onnxprune.training.schedule import factor
from onnxprune.training.tasks import Outputs

log = logging.getLogger(__name__)

MEASURED = 256  # samples at most, to tell variances from and to measure on
WARMUP, CLIP = 0.05, 1.0


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train; `features` is the weight of values inside beside the outputs."""

    epochs: int
    seed: int
    batch_size: int
    lr: float
    augment: str
    features: float
    names: frozenset[str] | None = None
    """Of the initializers to train; None for all."""


def taught(
    slim: onnx.ModelProto, dense: onnx.ModelProto, values: Sequence[str], data: Data, recipe: Recipe
) -> dict[str, np.ndarray]:
    """See onnxprune.distilled; `values` are what to match inside, those of them that have one shape in both."""
    batches = Batches(data, torch.device("cpu"), channels_last=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        pair = _pair(slim, dense, values, next(batches.in_order(recipe.batch_size)), recipe.names)
        before = {name: tensor.clone() for name, tensor in pair.student.state_dict().items()}
        lesson = _lesson(pair, batches, recipe)
        if not lesson.matched:
            log.warning("distillation did not help: the outputs are constant on the samples")
            return {}
        why = _trained(pair, lesson, batches, recipe)
    if why is not None:
        log.warning("distillation did not help: %s", why)
        return {}
    known = {tensor.name for tensor in slim.graph.initializer}
    after = {name: tensor for name, tensor in pair.student.state_dict().items() if name in known}
    return {
        name: np.ascontiguousarray(tensor.numpy())
        for name, tensor in after.items()
        if not torch.equal(tensor, before[name])
    }


@dataclass(frozen=True)
class Pair:
    """Two modules in eval mode that return the same values behind their outputs; the student's float32 weights."""

    student: fx.GraphModule
    teacher: fx.GraphModule
    weights: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Lesson:
    """The distance of the student from the teacher: of the outputs, and of values inside per variance."""

    outputs: Distillation
    inside: tuple[float, ...]
    weight: float

    @property
    def matched(self) -> bool:
        """Whether there is any output to learn."""
        return any(head.kind != "none" for head in self.outputs.heads)

    def loss(self, ours: tuple[Outputs, Values], theirs: tuple[Outputs, Values], batch: Batch) -> Tensor:
        loss = self.outputs.loss(ours[0], batch, theirs[0])
        if not self.inside:
            return loss
        paired = zip(ours[1], theirs[1], self.inside, strict=True)
        parts = [nn.functional.mse_loss(value, wanted) / variance for value, wanted, variance in paired]
        return loss + self.weight * torch.stack(parts).mean()


def _pair(
    slim: onnx.ModelProto,
    dense: onnx.ModelProto,
    values: Sequence[str],
    few: Batch,
    names: frozenset[str] | None,
) -> Pair:
    shapes = []
    for model in (slim, dense):
        module = to_torch.load(model, also=values)
        with torch.no_grad():
            results = module(*few.inputs)
        shown = results[len(results) - len(values) :] if values else ()
        shapes.append([(value.shape, value.is_floating_point()) for value in shown])
    alike = [name for name, one, other in zip(values, *shapes, strict=True) if one == other and one[1]]
    student, teacher = (
        to_torch.load(model, also=alike).to(memory_format=torch.channels_last) for model in (slim, dense)
    )
    teacher.requires_grad_(False)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(parameter.dtype == torch.float32 and (names is None or name in names))
    return Pair(student, teacher, tuple(p for p in student.parameters() if p.requires_grad))


@torch.no_grad()
def _lesson(pair: Pair, batches: Batches, recipe: Recipe) -> Lesson:
    """With the kinds and variances of the teacher's outputs and values."""
    found = [
        outputs_and_values(pair.teacher, batch) for batch in batches.in_order(recipe.batch_size, MEASURED)
    ]
    heads = tuple(Head.of(torch.cat(outputs)) for outputs in zip(*(o for o, _ in found), strict=True))
    inside = (
        torch.cat(values).var(correction=0).item() for values in zip(*(v for _, v in found), strict=True)
    )
    return Lesson(Distillation(heads), tuple(max(variance, 1e-12) for variance in inside), recipe.features)


def _trained(pair: Pair, lesson: Lesson, batches: Batches, recipe: Recipe) -> str | None:
    """Trains the student; why it is no better for it, or None."""
    start, steps = _distance(pair, lesson, batches, recipe), _steps(batches.data, recipe)
    if not pair.weights:
        return "there are no float32 weights to train"
    optimizer = torch.optim.AdamW(pair.weights, recipe.lr, weight_decay=0.0)
    for step, batch in enumerate(_mixed(batches, recipe, steps)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * factor("cosine", step, steps, WARMUP)
        with torch.no_grad():
            wanted = outputs_and_values(pair.teacher, batch)
        loss = lesson.loss(outputs_and_values(pair.student, batch), wanted, batch)
        if not math.isfinite(loss.item()):
            return f"the loss became {loss.item()} at step {step + 1} of {steps}"
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(pair.weights, CLIP)
        optimizer.step()
    end = _distance(pair, lesson, batches, recipe)
    log.info("distilled in %d steps: the outputs' distance went from %.4g to %.4g", steps, start, end)
    return None if end < start else f"the outputs' distance went from {start:.4g} to {end:.4g}"


def _steps(data: Data, recipe: Recipe) -> int:
    return max(1, len(data) // recipe.batch_size) * recipe.epochs


def _mixed(batches: Batches, recipe: Recipe, steps: int) -> Iterator[Batch]:
    """One batch for each step, mixed where all inputs are images of floats."""
    mixing = Augmentation.of(recipe.augment)
    if mixing is not None and not all(
        _is_float_image(batches.data, k) for k in range(len(batches.data.columns))
    ):
        log.info("the samples are no images of floats: they are taken as they are")
        mixing = None
    if mixing is not None:
        mixing.check(batches.data)
    draws = drawn(len(batches.data), recipe.batch_size, recipe.seed, range(steps))
    return batches.drawn(draws, mixing, recipe.seed)


def _is_float_image(data: Data, number: int) -> bool:
    column = data.columns[number]
    return is_image(column) and (column.pixels is None or column.pixels.dtype.kind == "f")


@torch.no_grad()
def _distance(pair: Pair, lesson: Lesson, batches: Batches, recipe: Recipe) -> float:
    """The outputs' loss on unmixed samples, nan and infinity included."""
    losses, count = 0.0, 0
    for batch in batches.in_order(recipe.batch_size, MEASURED):
        (ours, _), (theirs, _) = (
            outputs_and_values(module, batch) for module in (pair.student, pair.teacher)
        )
        losses += lesson.outputs.loss(ours, batch, theirs).item() * len(batch)
        count += len(batch)
    return losses / count
