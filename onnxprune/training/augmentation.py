"""Augmentation of training samples by torchvision.transforms.v2, the same wherever and whenever a sample is made.

augmentation = Augmentation.of("crop,flip,mixup", classes=10)
augmentation.check(data)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.mixing import MIXING, mixed, own_randomness, torchvision
from onnxprune.training.samples import Column, Data

if TYPE_CHECKING:
    from torchvision.transforms import v2

PER_SAMPLE = ("crop", "resized-crop", "flip", "randaugment")
"""In the order in which they are done."""
NAMES = (*PER_SAMPLE, *MIXING)
ALIASES = {"crop-flip": ("crop", "flip")}
IGNORED = -1  # what a mask holds where a crop reaches beyond the image: no loss is taken there


@dataclass(frozen=True)
class Augmentation:
    """What is done to training samples: `names` of NAMES; `classes` is how many the model tells apart, for MIXING.

    "crop" pads by zeros of 1/8 of the size and crops back at random, "flip" mirrors half of the images, "randaugment"
    and "resized-crop" are torchvision's defaults; these act on each sample's pixels. "mixup" mixes each normalised
    sample and its label with the next of the batch, "cutmix" puts a part of the next image into each and mixes their
    labels by area; of both, each batch gets one. Masks are transformed with their images; where a crop reaches
    beyond them they are IGNORED.
    """

    names: tuple[str, ...]
    classes: int | None = None

    @staticmethod
    def of(text: str, classes: int | None = None) -> "Augmentation | None":
        """From names with commas between them, in any order; None for "none". TrainingError for an unknown one."""
        given = [part.strip() for part in text.split(",")]
        names = {name for part in given for name in ALIASES.get(part, (part,))}
        if names == {"none"}:
            return None
        unknown = next((name for name in given if not set(ALIASES.get(name, (name,))) <= set(NAMES)), None)
        if unknown is not None:
            known = ", ".join(("none", *NAMES, *ALIASES))
            raise TrainingError(
                f"augment {unknown!r} is unknown: give some of {known}, with commas between them"
            )
        torchvision()
        return Augmentation(tuple(name for name in NAMES if name in names), classes)

    def check(self, data: Data) -> None:
        """Raises TrainingError where `data` cannot take one of the names."""
        per_sample = [name for name in self.names if name in PER_SAMPLE]
        if per_sample:
            _check_images(data, per_sample[0])
        if "randaugment" in self.names:
            images = [column for column in data.columns if is_image(column)]
            if len(images) != 1 or images[0].values.dtype != np.uint8:
                raise TrainingError(
                    "augment randaugment needs one input of uint8 pixels: leave it out, or store them so"
                )
            if has_masks(data):
                raise TrainingError(
                    "augment randaugment cannot move masks along: use crop, resized-crop and flip"
                )
        for name in self.mixing:
            self._check_mixing(data, name)

    def samples(
        self, stored: Sequence[np.ndarray], labels: np.ndarray | None, data: Data, seeds: Sequence[int]
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """A batch as it is stored, each sample transformed by randomness of its own seed."""
        if self.mixing and labels is not None and labels.dtype.kind == "i":
            _check_classes(
                labels, self.classes or 0, self.mixing[0]
            )  # here, because on a GPU it would wait for each batch
        tensors = [_tensor(values) for values in stored]
        target = None if labels is None else _tensor(labels)
        images = [number for number, column in enumerate(data.columns) if is_image(column)]
        if not images or not set(self.names) & set(PER_SAMPLE):
            return tuple(tensors), target
        masks = target if has_masks(data) else None
        moved = [_channels_first(tensors[k], data.columns[k]) for k in images]
        *moved, masks = _transformed(
            _per_sample(self.names, *_size(data.columns[images[0]])), moved, masks, seeds
        )
        for k, values in zip(images, moved, strict=True):
            tensors[k] = _as_stored(values, data.columns[k])
        return tuple(tensors), target if masks is None else masks

    def mixed(
        self, inputs: tuple[Tensor, ...], labels: Tensor | None, data: Data, seed: int
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Float inputs and labels of a batch, mixed where that is asked for; class numbers become (n, classes)."""
        if not self.mixing:
            return inputs, labels
        last = [_last_in_batch(column) for column in data.columns]
        return mixed(self.mixing, inputs, labels, classes=self.classes, last=last, seed=seed)

    @property
    def mixing(self) -> tuple[str, ...]:
        """Those of `names` that mix samples."""
        return tuple(name for name in self.names if name in MIXING)

    def _check_mixing(self, data: Data, name: str) -> None:
        if has_masks(data):
            raise TrainingError(f"augment {name} cannot mix masks: leave it out")
        whole = next((c.name for c in data.columns if c.pixels is None and c.values.dtype.kind != "f"), None)
        if whole is not None:
            raise TrainingError(
                f"augment {name} cannot mix the whole numbers of input '{whole}': leave it out"
            )
        if name == "cutmix":
            _check_images(data, name)
            other = next((column.name for column in data.columns if not is_image(column)), None)
            if other is not None:
                raise TrainingError(f"augment cutmix cannot cut input '{other}', no image: leave it out")
        if data.labels is None or data.labels.dtype.kind == "f":
            return
        if int(np.prod(data.labels.shape[1:])) != 1:
            raise TrainingError(
                f"augment {name} takes one class number per sample, not {data.labels.shape[1:]}: leave it out"
            )
        if self.classes is None:
            raise TrainingError(
                f"augment {name} needs the number of classes, which the task does not have: leave it out"
            )
        if isinstance(data.labels, np.ndarray):
            _check_classes(data.labels, self.classes, name)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers; close ones give unrelated ones."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest())


def is_image(column: Column) -> bool:
    """Whether a column holds images: pixels, or floats with a channel axis of 1 or 3."""
    shape = column.values.shape
    return column.pixels is not None or (
        len(shape) == 4 and column.values.dtype.kind == "f" and (shape[1] in (1, 3) or shape[3] in (1, 3))
    )


def has_masks(data: Data) -> bool:
    """Whether the labels are class numbers for each pixel of the images."""
    labels, images = data.labels, [column for column in data.columns if is_image(column)]
    return bool(
        labels is not None and images and labels.dtype.kind == "i" and labels.shape[1:] == _size(images[0])
    )


def _check_images(data: Data, name: str) -> None:
    """Raises TrainingError unless there are images, of one size, and nothing that would have to move with them."""
    images = [column for column in data.columns if is_image(column)]
    shapes = ", ".join(f"'{c.name}' {c.values.shape[1:]}" for c in data.columns)
    if not images:
        raise TrainingError(f"augment {name} needs an image input, the model has {shapes}: leave it out")
    spatial = sum(len(column.values.shape) == 4 for column in data.columns)
    if spatial > len(images) or len({_size(column) for column in images}) > 1:
        raise TrainingError(
            f"augment {name} needs images of one size and 1 or 3 channels, not {shapes}: leave it out"
        )
    if data.labels is not None and len(data.labels.shape) > 2 and not has_masks(data):
        raise TrainingError(
            f"augment {name} cannot move labels of shape {data.labels.shape[1:]} with the images: give whole numbers "
            f"of shape {_size(images[0])}, or leave it out"
        )


def _transformed(
    transform: "v2.Transform", images: list[Tensor], masks: Tensor | None, seeds: Sequence[int]
) -> list[Any]:
    """Images (n, c, h, w) and masks (n, h, w), all of a sample alike; None for no masks."""
    from torchvision import tv_tensors

    alone = masks is None and len(images) == 1  # a plain tensor is an image too, and cheaper
    results = []
    with own_randomness():
        for number, seed in enumerate(seeds):
            torch.default_generator.manual_seed(seed)
            if alone:
                results.append([transform(images[0][number])])
                continue
            parts: list[Tensor] = [tv_tensors.Image(values[number]) for values in images]
            if masks is not None:
                parts.append(tv_tensors.Mask(masks[number]))
            results.append([part.as_subclass(Tensor) for part in transform(*parts, *_PADDING)[: len(parts)]])
    stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
    return stacked if masks is not None else [*stacked, None]


_PADDING = (None,)  # a transform of one value returns no tuple


@lru_cache
def _per_sample(names: tuple[str, ...], height: int, width: int) -> "v2.Transform":
    v2 = torchvision()
    from torchvision import tv_tensors

    fill = {torch.Tensor: 0, tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
    across, down = max(1, width // 8), max(1, height // 8)
    made = {
        "crop": lambda: v2.RandomCrop((height, width), padding=[across, down], fill=fill),
        "resized-crop": lambda: v2.RandomResizedCrop((height, width)),
        "flip": v2.RandomHorizontalFlip,
        "randaugment": v2.RandAugment,
    }
    return v2.Compose([make() for name, make in made.items() if name in names])


def _check_classes(labels: np.ndarray, classes: int, name: str) -> None:
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise TrainingError(
            f"augment {name}: class numbers from {least} to {most} for a model of {classes} classes: number them from "
            "0, without samples to ignore, or leave it out"
        )


def _size(column: Column) -> tuple[int, ...]:
    shape = column.values.shape
    return shape[1:3] if _last(column) else shape[2:]


def _last(column: Column) -> bool:
    shape = column.values.shape
    return column.pixels is not None or (shape[1] not in (1, 3) and shape[3] in (1, 3))


def _last_in_batch(column: Column) -> bool:
    """Whether the channels of an input as the model takes it are its last axis."""
    if column.pixels is not None:
        return not column.pixels.channels_first
    return is_image(column) and _last(column)


def _channels_first(values: Tensor, column: Column) -> Tensor:
    return values.movedim(-1, 1).contiguous() if _last(column) else values


def _as_stored(values: Tensor, column: Column) -> Tensor:
    return values.movedim(1, -1) if _last(column) else values


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
