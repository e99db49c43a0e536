"""Samples as tensors on the training device."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.data import Column, Data
from onnxprune.training.images import Pixels

Key = TypeVar("Key")


@dataclass(frozen=True)
class Batch:
    """The model's inputs in order and the labels of the same samples."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Batches:
    """`data` as batches on `device`; 4-D inputs in channels-last memory where that is asked for."""

    data: Data
    device: torch.device
    channels_last: bool = False

    def take(self, which: NDArray[np.intp], augment: np.random.Generator | None = None) -> Batch:
        """These samples; `augment` draws a random crop and flip for each image."""
        stored, labels = self.data.stored(which), self.data.labels_of(which)
        inputs = []
        for column, values in zip(self.data.columns, stored, strict=True):
            value = torch.from_numpy(np.ascontiguousarray(values)).to(self.device, non_blocking=True)
            if augment is not None and value.dim() == 4:
                value = _augmented(value, column, augment)
            inputs.append(
                self._laid_out(value if column.pixels is None else _normalised(value, column.pixels))
            )
        return Batch(tuple(inputs), None if labels is None else torch.from_numpy(labels).to(self.device))

    def in_order(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """All samples (or the first `limit`) once, `size` at a time."""
        end = len(self.data) if limit is None else min(limit, len(self.data))
        starts = range(0, end, size)
        return prefetched(lambda start: self.take(np.arange(start, min(start + size, end))), starts)

    def sampled(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Up to `count` different random batches, the same for the same seed."""
        order = np.random.default_rng(seed).permutation(len(self.data))[: count * size]
        return prefetched(self.take, [order[i : i + size] for i in range(0, len(order), size)])

    def drawn(
        self, draws: Iterable[tuple[int, NDArray[np.intp]]], augment: tuple[int, ...] | None
    ) -> Generator[Batch]:
        """A batch for each step and its samples; `augment` and the step seed the augmentation, None for none."""

        def make(draw: tuple[int, NDArray[np.intp]]) -> Batch:
            step, rows = draw
            return self.take(rows, None if augment is None else np.random.default_rng((*augment, step)))

        return prefetched(make, draws)

    def _laid_out(self, value: Tensor) -> Tensor:
        if value.dim() == 4 and self.channels_last:
            return value.contiguous(memory_format=torch.channels_last)
        return value.contiguous()


def check_augmentable(data: Data) -> None:
    """Raises TrainingError where no input is an image."""
    if not any(len(column.values.shape) == 4 for column in data.columns):
        shapes = ", ".join(f"'{c.name}' {c.values.shape[1:]}" for c in data.columns)
        raise TrainingError(f"augment crop-flip needs an image input, the model has {shapes}: leave it out")


def crop_flip(images: Tensor, draw: np.random.Generator) -> Tensor:
    """Images (n, h, w, c), each padded with zeros by 1/8 of its size, cropped back at random, mirrored half
    the time.

    The padding and crop of the usual CIFAR-10 recipe (4 pixels of 32).
    """
    n, height, width, _ = images.shape
    down, across = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (0, 0, across, across, down, down))
    top, left = draw.integers(0, 2 * down + 1, n), draw.integers(0, 2 * across + 1, n)
    columns = np.where(draw.random((n, 1)) < 0.5, np.arange(width)[::-1], np.arange(width)) + left[:, None]
    rows = np.arange(height) + top[:, None]
    index = (np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(torch.from_numpy(i).to(images.device) for i in index)]


def drawn(samples: int, size: int, seed: int, steps: range) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each of `steps` with its `size` samples: every epoch another random order, its remainder left out."""
    per_epoch, order = max(1, samples // size), None
    for step in steps:
        epoch, position = divmod(step, per_epoch)
        if order is None or position == 0:
            order = np.random.default_rng((seed, epoch)).permutation(samples)
        yield step, order[position * size : (position + 1) * size]


def prefetched(make: Callable[[Key], Batch], keys: Iterable[Key]) -> Generator[Batch]:
    """`make(key)` for each key in order, the next one prepared in a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Batch] | None = None
        for key in keys:
            upcoming = pool.submit(make, key)
            if waiting is not None:
                yield waiting.result()
            waiting = upcoming
        if waiting is not None:
            yield waiting.result()


def _augmented(value: Tensor, column: Column, draw: np.random.Generator) -> Tensor:
    last = column.pixels is not None or (value.shape[1] not in (1, 3) and value.shape[3] in (1, 3))
    return crop_flip(value, draw) if last else crop_flip(value.movedim(1, -1), draw).movedim(-1, 1)


def _normalised(images: Tensor, pixels: Pixels) -> Tensor:
    """What Pixels.to_input does, on the device."""
    scale, shift = (torch.tensor(v, device=images.device) for v in (pixels.scale, pixels.shift))
    values = torch.addcmul(shift, images.float(), scale)
    dtype = torch.from_numpy(np.empty(0, pixels.dtype)).dtype
    return (values.movedim(-1, 1) if pixels.channels_first else values).to(dtype)
