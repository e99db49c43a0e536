"""Samples of a batch mixed with one another by torchvision.transforms.v2."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from onnxprune.errors import TrainingError

MIXING = ("mixup", "cutmix")


def mixed(
    names: Sequence[str],
    inputs: tuple[Tensor, ...],
    labels: Tensor | None,
    *,
    classes: int | None,
    last: Sequence[bool],
    seed: int,
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Float inputs (n, ...) and labels of a batch, each sample with the one before it, by one of `names`.

    Which of them, and how much of each sample, is drawn from `seed`. `last` says of each input whether its channels are
    its last axis. Class numbers (n,) become (n, classes); floats are mixed whatever their shape.
    """
    from torchvision import tv_tensors

    n = len(inputs[0])
    images = [tv_tensors.Image(_as_image(value, behind)) for value, behind in zip(inputs, last, strict=True)]
    if labels is None:
        target = torch.zeros(n, 1)
    elif labels.is_floating_point():
        target = labels.reshape(n, -1)
    else:
        target = labels.reshape(n)
    whole, v2 = not target.is_floating_point(), torchvision()
    kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    with own_randomness():
        torch.default_generator.manual_seed(seed)
        name = names[int(torch.randint(len(names), ()))] if len(names) > 1 else names[0]
        mixing = kinds[name](num_classes=classes if whole else None, labels_getter=lambda parts: parts[-1])
        *results, soft = mixing(*images, target)
    values = tuple(
        (result.movedim(1, -1) if behind and value.dim() == 4 else result)
        .as_subclass(Tensor)
        .reshape(value.shape)
        for result, value, behind in zip(results, inputs, last, strict=True)
    )
    if labels is None:
        return values, None
    return values, soft if whole else soft.reshape(labels.shape)


def _as_image(value: Tensor, last: bool) -> Tensor:
    """(n, c, h, w), which is all that torchvision mixes."""
    if value.dim() != 4:
        return value.reshape(len(value), 1, 1, -1)
    return value.movedim(-1, 1) if last else value


@contextmanager
def own_randomness() -> Iterator[None]:
    """What is drawn inside leaves no trace in the global generator; seeding that alone is quicker than manual_seed."""
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def torchvision() -> Any:
    """torchvision.transforms.v2; TrainingError where it is not installed."""
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise TrainingError(
            "augment needs torchvision: pip install 'onnxprune[images]', or leave it out"
        ) from error
    return v2
