"""Samples as tensors on the training device, in this process or prepared by workers."""

import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onnxprune.errors import DataError, OnnxpruneError, TrainingError
from onnxprune.training.augmentation import Augmentation, seed_of
from onnxprune.training.labels import Collate, collated, mapped, on_device
from onnxprune.training.preprocessing import Pixels
from onnxprune.training.samples import Data

Draw: TypeAlias = tuple[int, NDArray[np.intp]]
"""A step and its samples."""


@dataclass(frozen=True)
class Batch:
    """The model's inputs in order and the labels of the same samples: a tensor, None, or what a task collates."""

    inputs: tuple[Tensor, ...]
    labels: Any

    def __len__(self) -> int:
        return len(self.inputs[0])

    def divided(self, parts: int) -> "list[Batch]":
        """Into so many of nearly the same size, or as many as there are samples; without labels."""
        pieces = [value.tensor_split(min(parts, len(self))) for value in self.inputs]
        return [Batch(inputs, None) for inputs in zip(*pieces, strict=True)]


@dataclass(frozen=True)
class Loaded:
    """A step's samples as they are stored, and their labels, in main memory."""

    draw: Draw
    inputs: tuple[Tensor, ...]
    labels: Any

    def pin_memory(self) -> "Loaded":
        """What DataLoader calls; left to itself it would make lists of a task's tuples."""
        labels = None if self.labels is None else mapped(Tensor.pin_memory, self.labels)
        return Loaded(self.draw, tuple(map(Tensor.pin_memory, self.inputs)), labels)


@dataclass(frozen=True)
class Batches:
    """`data` as batches on `device`; 4-D inputs in channels-last memory where that is asked for.

    `workers` processes read and augment samples ahead of the training; with 0 it is done in between. What comes out
    does not depend on their number. `collate` makes the labels of each batch, where a task has its own.
    """

    data: Data
    device: torch.device
    channels_last: bool = False
    workers: int = 0
    collate: Collate | None = None

    def take(self, which: NDArray[np.intp]) -> Batch:
        """These samples."""
        return self._batch(_Samples(self.data, collate=self.collate).load((0, which)))

    def in_order(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """All samples (or the first `limit`) once, `size` at a time."""
        end = len(self.data) if limit is None else min(limit, len(self.data))
        return self.drawn((0, np.arange(start, min(start + size, end))) for start in range(0, end, size))

    def sampled(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Up to `count` different random batches, the same for the same seed."""
        order = np.random.default_rng(seed).permutation(len(self.data))[: count * size]
        return self.drawn((0, order[i : i + size]) for i in range(0, len(order), size))

    def drawn(
        self, draws: Iterable[Draw], augmentation: Augmentation | None = None, seed: int = 0
    ) -> Generator[Batch]:
        """A batch for each step and its samples, each sample augmented as `seed`, the step and its row number say."""
        if self.collate is not None and augmentation is not None and augmentation.mixing:
            name = augmentation.mixing[0]
            raise TrainingError(f"augment {name} cannot mix labels that a task collates: leave it out")
        loader = DataLoader(
            _Samples(self.data, augmentation, seed, self.collate),
            batch_size=None,
            sampler=draws,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that no seed is drawn from the global one
        )
        for loaded in _alive(loader):
            if isinstance(loaded, OnnxpruneError):
                raise loaded
            batch, (step, rows) = self._batch(loaded), loaded.draw
            if augmentation is not None:
                own = seed_of(seed, step, int(rows[0]))
                batch = Batch(*augmentation.mixed(batch.inputs, batch.labels, self.data, own))
            yield batch

    def in_parts(
        self, draws: Iterable[Draw], parts: int, augmentation: Augmentation | None, seed: int
    ) -> Generator[list[Batch]]:
        """The samples of each step in so many batches, augmented as `drawn` does."""
        each = ((step * parts + part, rows[part::parts]) for step, rows in draws for part in range(parts))
        waiting: list[Batch] = []
        with closing(self.drawn(each, augmentation, seed)) as batches:
            for batch in batches:
                waiting.append(batch)
                if len(waiting) == parts:
                    yield waiting
                    waiting = []

    def _batch(self, loaded: Loaded) -> Batch:
        inputs = []
        for column, value in zip(self.data.columns, loaded.inputs, strict=True):
            moved = value.to(self.device, non_blocking=True)
            inputs.append(
                self._laid_out(moved if column.pixels is None else _normalised(moved, column.pixels))
            )
        return Batch(tuple(inputs), None if loaded.labels is None else on_device(loaded.labels, self.device))

    def _laid_out(self, value: Tensor) -> Tensor:
        if value.dim() == 4 and self.channels_last:
            return value.contiguous(memory_format=torch.channels_last)
        return value.contiguous()


def drawn(samples: int, size: int, seed: int, steps: range) -> Iterator[Draw]:
    """Each of `steps` with its `size` samples: every epoch another random order, its remainder left out."""
    per_epoch, order = max(1, samples // size), None
    for step in steps:
        epoch, position = divmod(step, per_epoch)
        if order is None or position == 0:
            order = np.random.default_rng((seed, epoch)).permutation(samples)
        yield step, order[position * size : (position + 1) * size]


@dataclass(frozen=True)
class _Samples(Dataset[Loaded | OnnxpruneError]):
    """What a worker does: `data`, augmented by `augmentation`, for one draw."""

    data: Data
    augmentation: Augmentation | None = None
    seed: int = 0
    collate: Collate | None = None

    def load(self, draw: Draw) -> Loaded:
        step, rows = draw
        stored, labels = self.data.stored(rows), self.data.labels_of(rows)
        if self.augmentation is None:
            inputs = tuple(torch.from_numpy(np.ascontiguousarray(values)) for values in stored)
            target = None if labels is None else torch.from_numpy(labels)
        else:
            seeds = [seed_of(self.seed, step, row) for row in rows.tolist()]
            inputs, target = self.augmentation.samples(stored, labels, self.data, seeds)
        return Loaded(draw, inputs, collated(self.collate, inputs, target))

    def __getitem__(self, draw: Draw) -> Loaded | OnnxpruneError:
        """An error is handed over as a value: raised in a worker, it would come out as a page of its traceback."""
        try:
            return self.load(draw)
        except OnnxpruneError as error:
            return error


def _alive(loader: DataLoader[Loaded | OnnxpruneError]) -> Generator[Loaded | OnnxpruneError]:
    """What `loader` gives; DataError where a worker dies."""
    batches = iter(loader)
    while True:
        try:
            loaded = next(batches)
        except StopIteration:
            return
        except (
            RuntimeError,
            ConnectionError,
            EOFError,
        ) as error:  # the latter two: what it had sent is gone with it
            if loader.num_workers == 0 or (
                isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)
            ):
                raise
            told = DataError(
                f"a worker that reads the data died ({' '.join(str(error).split())[:120]}): give fewer workers, it "
                "may have run out of memory"
            )
            with suppress(
                RuntimeError
            ):  # raised again at every signal of a child's end, until they are all gone
                batches._shutdown_workers()  # type: ignore[attr-defined]
            raise told from error
        yield loaded


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches the workers too, but the training goes on to the end of its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _normalised(images: Tensor, pixels: Pixels) -> Tensor:
    """What Pixels.to_input does, on the device."""
    scale, shift = (torch.tensor(v, device=images.device) for v in (pixels.scale, pixels.shift))
    values = torch.addcmul(shift, images.float(), scale)
    dtype = torch.from_numpy(np.empty(0, pixels.dtype)).dtype
    return (values.movedim(-1, 1) if pixels.channels_first else values).to(dtype)
