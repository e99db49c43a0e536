"""TGL: plug-in, trainable gates (Kim, Park, Jung, Choe; AAAI 2020, arXiv 1904.10921).

The paper's gate is `f_M(w) = b(w) + s_M(w) * g(w)` with b(w) = 1 if w > 0 else 0 and
`s_M(w) = (M w - floor(M w)) / M`; as M grows, f_M -> b and f_M' -> g. Here is that limit itself: forward
b(w), backward g(w). So a closed gate is exactly 0, and what is trained is what is cut. Using the limit, and
how gates start, step and are clipped, are choices of this project, settled by measurement, not the words of
the paper.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.gates import PREFIX
from onnxprune.methods.gate import SLOPES, gate
from onnxprune.methods.method import Latents, Method, Scores
from onnxprune.methods.taylor import ranked_start


@dataclass
class Tgl(Method):
    """Trainable gates. They start at ranks of importance per cost and move by plain SGD at `lr`.

    `budget` "projection" shifts all latents after each step so that the ratio's ramp is met; "penalty" is the paper's
    form, `penalty * |ratio - C|^2` in the loss, which only pulls: gates freeze where C is within `tolerance`, and may
    never get there. No gate moves further than `lr * clip` in a step. `slope`: g(w), see SLOPES.
    """

    lr: float = 0.1
    clip: float = 0.1
    slope: str = "one"
    budget: str = "projection"
    penalty: float = 1.0
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        """Raises TrainingError for an option that makes no sense, naming it."""
        if self.slope not in SLOPES:
            raise TrainingError(f"slope {self.slope!r} is unknown: give one of {', '.join(SLOPES)}")
        if self.budget not in ("projection", "penalty"):
            raise TrainingError(f"budget {self.budget!r} is unknown: give projection or penalty")
        for name in ("lr", "clip", "penalty", "tolerance"):
            if not 0 < getattr(self, name) < float("inf"):
                raise TrainingError(f"{name} of the gates is {getattr(self, name)}: give a positive number")

    @property
    def meets(self) -> bool:
        return self.budget == "projection"

    def begin(self, scores: Scores | None) -> Latents | None:
        if scores is None:
            return None
        return ranked_start(scores, self.gates.unit())

    def mask(self, group: str, w: Tensor, *operands: Tensor) -> Tensor:
        return gate(w, self.slope)

    def step(self, w: Latents, gradient: Latents, rho: float) -> Latents:
        """One step of plain SGD on all gates, without momentum or weight decay.

        Unit costs differ many-fold between groups, so each gradient is divided by its gate's cost. With the penalty
        the budget's own gradient is among them and the cost is in it.
        """
        if not self.meets:
            return self._moved(w, gradient)
        return self.gates.project(self._moved(w, gradient / self.gates.unit()), rho)

    def _moved(self, w: Latents, gradient: NDArray[np.floating]) -> Latents:
        moved: Latents = w - np.float32(self.lr) * np.clip(gradient, -self.clip, self.clip).astype(np.float32)
        return moved

    def loss(self) -> Tensor | None:
        if self.meets:
            return None
        tensors = (self.gates.tensor(PREFIX + group) for group in self.gates.sizes)
        return self.penalty * self.gates.miss([gate(w, self.slope).sum() for w in tensors])

    def due(self, reached: float, target: float) -> bool:
        return not self.meets and abs(reached - target) <= self.tolerance
