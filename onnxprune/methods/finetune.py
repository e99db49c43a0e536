"""Fine-tuning of a one-shot plan: the gates are closed before the first step, then only weights train.

The honest baseline of every method that trains gates.
"""

from dataclasses import dataclass

import numpy as np

from onnxprune.errors import TrainingError
from onnxprune.methods.magnitude import CRITERIA, magnitude
from onnxprune.methods.method import Latents, Method, Scores
from onnxprune.methods.taylor import ranked_start, spread


@dataclass
class Finetune(Method):
    """Gates that `criterion` ranks: "taylor" per cost over all gates, or one of `CRITERIA` within each group.

    Scores of weights alone cannot be compared between groups, so that they close the same share of every group.
    """

    criterion: str = "taylor"

    def __post_init__(self) -> None:
        if self.criterion != "taylor" and self.criterion not in CRITERIA:
            raise TrainingError(
                f"criterion {self.criterion!r} is unknown: give one of taylor, {', '.join(CRITERIA)}"
            )

    @property
    def trains(self) -> bool:
        return False

    @property
    def scored(self) -> bool:
        return self.criterion == "taylor"

    def begin(self, scores: Scores | None) -> Latents | None:
        if not self.scored:
            norms = magnitude(self.gates.groups(), self.criterion)
            return np.concatenate([spread(norms[group].astype(np.float64)) for group in self.gates.sizes])
        if scores is None:
            return None
        return ranked_start(scores, self.gates.unit())
