"""Several limits at once: which of them the gates' costs are counted in.

Under MACs alone what pays is importance per MAC, under parameters alone importance per parameter. Under both it is
importance per a mixture, the unit costs' weighted geometric mean; the weights are those at which both limits are met,
as the multipliers of a Lagrangian are: a limit that the others leave room to has none. Where a little more brings both
to their targets, at the freeze it may be a little less than none.
"""

import numpy as np
from numpy.typing import NDArray

from onnxprune.choose import CLOSE
from onnxprune.training.budget import Budget, Latent

SLOPE = 0.03
"""By how much a latent falls as the logarithm of its cost grows by 1: what a ranked start's percentiles come to on
trained nets, whose importances per cost have a deviation of 1.5 to 2 in the logarithm."""
GAIN = 0.1
"""By how much a limit's weight grows in a step for all of the budget that it is ahead of the others."""
ROUNDS = 60
"""Steps to the weights at the freeze, where the limits must be met."""
BELOW = 0.5
"""How far below 0 a weight may go there."""


class Balance:
    """The limits' weights, which sum to 1."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.weights = np.full(len(budget.limits), 1 / len(budget.limits))

    def mixed(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """One cost a gate, relative to the mean, from one per limit and gate."""
        cost = np.exp(self.weights @ np.log(units))
        return np.asarray(cost / cost.mean())

    def tilt(
        self, w: Latent, rho: float, units: NDArray[np.float64], gain: float = GAIN, below: float = 0.0
    ) -> Latent:
        """`w` with more weight on the limits that are ahead when it is projected to `rho`."""
        if len(self.weights) == 1:
            return w
        uses = np.asarray(self.budget.uses(self.budget.opened(self.budget.project(w, rho))))
        weights = _to_simplex(self.weights + gain * (uses - uses.mean()), below)
        moved: Latent = w - np.float32(SLOPE) * ((weights - self.weights) @ np.log(units)).astype(np.float32)
        self.weights = weights
        return moved

    def level(self, w: Latent) -> Latent:
        """`w` tilted until all limits are met at the target at once, or so nearly that exchanges can do the rest."""
        if len(self.weights) == 1:
            return w
        level, room = self._levelled(w)
        if room <= CLOSE / 2:
            return level
        weights = self.weights
        further, less = self._levelled(level, BELOW)
        if less <= 2 * CLOSE:
            return further
        self.weights = weights
        return level

    def _levelled(self, w: Latent, below: float = 0.0) -> tuple[Latent, float]:
        """The most level of ROUNDS tilts, and how far apart the limits are with it."""
        best, weights, least = w, self.weights, np.inf
        for number in range(ROUNDS):
            uses = self.budget.uses(self.budget.opened(self.budget.project(w, self.budget.target)))
            if (room := max(uses) - min(uses)) < least:
                best, weights, least = w, self.weights, room
            if least <= CLOSE / 4:
                break
            w = self.tilt(w, self.budget.target, self.budget.unit_costs(w), 1 / (1 + number / 10), below)
        self.weights = weights
        return best, float(least)


def _to_simplex(weights: NDArray[np.float64], below: float = 0.0) -> NDArray[np.float64]:
    """The nearest weights that are at least -`below` and sum to 1 (Duchi et al., ICML 2008)."""
    raised = weights + below
    falling = np.sort(raised)[::-1]
    excess = (np.cumsum(falling) - 1 - below * len(weights)) / np.arange(1, len(weights) + 1)
    threshold = excess[np.flatnonzero(falling > excess)[-1]]
    return np.asarray(np.maximum(raised - threshold, 0) - below)
