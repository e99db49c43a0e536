"""What each channel is worth to the outputs, for gates in training to start from: `onnxprune train --ranking
sensitivity`.

ranking = Ranking(parts, costs.names, seed=0)
ranking(data)                    # one number a gate
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.apart import Apart
from onnxprune.calibration import drawn
from onnxprune.recovery.allocation import worth
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.sensitivity import measured_curves
from onnxprune.training.samples import Data

SAMPLES = 1024
LAST = 2.0
"""The last channels of a group, which are never taken away, over the dearest that is: training may still close them."""


@dataclass(frozen=True)
class Ranking:
    """Measures the groups `names` of a model without gates, each alone, as `onnxprune inspect --sensitivity` does."""

    parts: Apart
    names: Sequence[str]
    seed: int

    def __call__(self, data: Data) -> NDArray[np.float64]:
        """What each channel adds to the outputs' discrepancy, one group after the other, shape (channels,).

        Raises DataError, ModelError, OutputError.
        """
        anatomy = Anatomy.of(self.parts, {}, self.seed)
        batches = drawn(data, self.parts.light, SAMPLES, self.seed)
        anatomy.measure(batches)
        curves, _ = measured_curves(anatomy, batches, self.names)
        found = {curve.group: worth(curve, LAST) for curve in curves if len(curve.kept) > 1}
        dearest = max((float(values.max()) for values in found.values()), default=1.0)
        sizes = {group.name: group.size for group in anatomy.groups}
        return np.concatenate([found.get(name, np.full(sizes[name], dearest)) for name in self.names])
