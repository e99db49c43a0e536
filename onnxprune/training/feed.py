"""What a run trains on and is measured on: this process's part of the samples of each step."""

from collections.abc import Generator

import numpy as np
from accelerate import Accelerator

from onnxprune.errors import TrainingError
from onnxprune.training.augmentation import Augmentation
from onnxprune.training.batches import Batch, Batches, drawn
from onnxprune.training.data import Data
from onnxprune.training.labels import Collate
from onnxprune.training.settings import Settings

WORKERS = {False: 0, True: 4}
"""On a CPU they would only take turns with the training; a GPU would wait for samples without."""


class Feed:
    """`data` in batches to train on, which all processes draw from, and a process's own part of `held_out`."""

    def __init__(
        self,
        data: Data,
        validation: Data,
        settings: Settings,
        accelerator: Accelerator,
        collate: Collate | None,
    ) -> None:
        processes, device = accelerator.num_processes, accelerator.device
        self.of_a_step = settings.batch_size * processes * settings.accumulate
        if len(data) < processes * settings.accumulate:
            raise TrainingError(
                f"a step takes {self.of_a_step} samples, the data has {len(data)}: lower accumulate"
            )
        self.per_epoch = max(1, len(data) // self.of_a_step)
        self.steps = self.per_epoch * settings.epochs
        workers = settings.workers if settings.workers is not None else WORKERS[device.type == "cuda"]
        self.mine = slice(accelerator.process_index, None, processes)
        own = validation.take(np.arange(len(validation))[self.mine])
        self.data, self.held_out = (
            Batches(samples, device, settings.channels_last, workers, collate) for samples in (data, own)
        )
        self.settings = settings

    def after(self, step: int, augmentation: Augmentation | None) -> Generator[list[Batch]]:
        """What this process takes of each step left; the same for the same seed, wherever it starts."""
        seed, steps = self.settings.seed, range(step, self.steps)
        draws = (
            (number, rows[self.mine])
            for number, rows in drawn(len(self.data.data), self.of_a_step, seed, steps)
        )
        return self.data.in_parts(draws, self.settings.accumulate, augmentation, seed)

    def few(self) -> Batch:
        """The first samples, to compare modules on."""
        return self.data.take(np.arange(min(len(self.data.data), 8)))
