"""The gates' side of a run: where they start, how they move and meet the budget, when they freeze."""

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxprune.methods.tgl import Slope, Tgl, importance, ranked_start
from onnxprune.training.budget import Budget, Latent, ramp
from onnxprune.training.latents import Latents
from onnxprune.training.settings import Settings

UNIT_COSTS_EVERY = 20  # steps; they change slowly, and a large net takes milliseconds to count

CLOSE = 0.02  # a budget missed by more than this is warned of


class Gating:
    """The gates of a module in training: `w` is their flat vector, which the module's latents follow."""

    def __init__(self, latents: Latents, budget: Budget, settings: Settings, steps: int) -> None:
        self.latents, self.budget = latents, budget
        self.method = method_of(settings)
        self.projected, self.tolerance = settings.budget == "projection", settings.tolerance
        self.ramp_steps = round(settings.ramp * steps)
        self.w = latents.read()
        self.unit: NDArray[np.float64] = np.ones(len(self.w))
        self.frozen = False
        self.start = budget.fraction(self.w)

    @property
    def reached(self) -> float:
        """C now."""
        return self.budget.fraction(self.w)

    def rho(self, step: int) -> float:
        """What C should be after `step` steps."""
        return (
            ramp(step, self.ramp_steps, self.budget.target, self.start)
            if self.projected
            else self.budget.target
        )

    def open_all(self) -> None:
        self._set(np.ones(len(self.w), np.float32))

    def rank(self, scores: NDArray[np.float64]) -> None:
        """Open all gates, at ranks of their importance `scores` per cost."""
        self.open_all()
        self._set(ranked_start(scores, self.budget.unit_costs(self.w)))
        self.start = 1.0

    def importance(self, losses: Iterable[Tensor]) -> NDArray[np.float64]:
        """Of each gate for `losses`, one a batch, taken with all gates open."""
        return importance(losses, self.latents.tensors)

    def penalty(self) -> Tensor:
        """`|target - C|^2` through the gates as they stand."""
        opened = [self.method.value(w).sum() for w in self.latents.tensors]
        return torch.as_tensor(self.budget.penalty(opened))

    def move(self, step: int) -> bool:
        """The gates' part of step number `step` (from 0); returns whether they are due to freeze after it.

        With the penalty, the budget's own gradient is among the gates' gradients and is not divided by the
        costs.
        """
        if self.projected and step % UNIT_COSTS_EVERY == 0:
            self.unit = self.budget.unit_costs(self.w)
        w = self.method.step(self.w, self.latents.take_gradients(), self.unit)
        self._set(self.budget.project(w, self.rho(step + 1)) if self.projected else w)
        if self.projected:
            return step + 1 >= self.ramp_steps
        return abs(self.reached - self.budget.target) <= self.tolerance

    def shortfall(self, asked: float) -> str | None:
        """Why `asked` was missed by more than CLOSE; None where it was not."""
        if abs(self.reached - asked) <= CLOSE:
            return None
        if not self.projected:
            why = "a penalty only pulls towards it: use the budget projection to meet it"
        elif self.budget.least > asked:
            why = f"the least channels per group keep {self.budget.least:.3f}: lower them, or ask for more"
        else:
            why = "one channel of the coarsest group counts for more"
        return f"asked for {asked:g} of the {self.budget.by}, reached {self.reached:.4f}: {why}"

    def freeze(self, repair: bool) -> None:
        """From here on the gates stay as they are, with `repair` as near below the target as they can be."""
        if repair:
            self._set(self.budget.repair(self.w))
        self.frozen = True
        self.latents.freeze()

    def resume(self, w: Latent, unit: NDArray[np.float64], start: float, frozen: bool) -> None:
        """Take up the state of a checkpoint."""
        self._set(w)
        self.unit, self.start = unit, start
        if frozen:
            self.freeze(repair=False)

    def _set(self, w: Latent) -> None:
        self.w = w
        self.latents.write(w)


def method_of(settings: Settings) -> Tgl:
    return Tgl(settings.gate_lr, settings.gate_clip, cast(Slope, settings.gate_slope))
