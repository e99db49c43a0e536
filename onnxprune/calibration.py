"""Samples from `--data` as inputs of a model: what a result is proven on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxprune.errors import DataError
from onnxprune.session import declared_inputs, fixed_batch
from onnxprune.training.data import Preprocessing, load

SAMPLES = 64
"""So many at the most: enough to see a difference, few enough to keep the outputs in memory."""


@dataclass(frozen=True)
class Feeds:
    """Called with a model, gives its inputs batch by batch: of 2 samples, or as many as the model prescribes."""

    data: str | Path
    preprocessing: Preprocessing | None = None

    def __call__(self, model: onnx.ModelProto) -> Iterator[dict[str, np.ndarray]]:
        """Raises DataError where the data does not fit the model or is too little."""
        inputs = declared_inputs(model)
        prescribed = fixed_batch(inputs)
        wanted = [
            (i.name, i.dtype, (None, *(None if isinstance(n, str) else n for n in i.shape[1:])))
            for i in inputs
        ]
        samples = load(self.data, wanted, preprocessing=self.preprocessing)
        size = prescribed or min(2, len(samples))
        if len(samples) < size:
            raise DataError(
                f"{self.data}: has {len(samples)} samples, the model takes {size} at a time; give at least so many"
            )
        whole = max(min(SAMPLES, len(samples)) // size, 1) * size  # no last batch of another size
        yield from samples.batches(size, limit=whole)
