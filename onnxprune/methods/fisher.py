"""Fisher pruning: gates close one after another while the weights train, the least important per cost next.

Theis, Korshunova, Tejani, Huszar: Faster gaze prediction with dense networks and Fisher pruning, arXiv 1801.05787
(2018): the loss that a channel's removal costs is estimated by the squared gradients of the loss to its gate, gathered
as training goes on, and weighed against what it saves.

Choices of this project: the estimates start from the original network and follow training as running means, each
relative to that of all gates, since a loss that grows or a teacher that comes in scales them all; a closed gate keeps
the estimate it was closed with, and opens again only when those of others have fallen below it; and the budget, not a
weight on the cost, says how many are closed at a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.methods.method import Latents, Method, Scores
from onnxprune.methods.taylor import ranked_start


@dataclass
class Fisher(Method):
    """`decay` of the running means: 0.98 looks back over some 50 batches."""

    decay: float = 0.98

    def __post_init__(self) -> None:
        """Raises TrainingError for an option that makes no sense, naming it."""
        if not 0 <= self.decay < 1:
            raise TrainingError(f"decay of fisher is {self.decay}: give a share from 0 to below 1")
        self.scores: Scores = np.zeros(0)
        self.scale = 0.0

    def begin(self, scores: Scores | None) -> Latents | None:
        if scores is None:
            raise TrainingError("method fisher opens all gates: leave out start='given'")
        self.scores = scores / max(scores.mean(), 1e-30)
        return ranked_start(self.scores, self.gates.unit())

    def step(self, w: Latents, gradient: Latents, rho: float) -> Latents:
        squares = gradient.astype(np.float64) ** 2
        mean, opened, new = squares.mean(), w > 0, 1 - self.decay
        self.scale = self.decay * self.scale + new * mean if self.scale else mean
        if self.scale:
            self.scores[opened] += new * (squares[opened] / self.scale - self.scores[opened])
        return self.gates.project(ranked_start(self.scores, self.gates.unit()), rho)

    def state(self) -> dict[str, Tensor]:
        return {
            "scores": torch.from_numpy(self.scores),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        self.scores, self.scale = state["scores"].numpy(), float(state["scale"])
