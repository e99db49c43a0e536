"""Several limits at once: which of them the gates' costs are counted in.

Under MACs alone what pays is importance per MAC, under parameters alone importance per parameter. Under both it is
importance per a mixture, the unit costs' weighted geometric mean; the weights are those at which both limits are met,
as the multipliers of a Lagrangian are: a limit that the others leave room to has none.
"""

import numpy as np
from numpy.typing import NDArray

from onnxprune.training.budget import Budget, Counts, Latent

SLOPE = 0.03
"""By how much a latent falls as the logarithm of its cost grows by 1: what a ranked start's percentiles come to on
trained nets, whose importances per cost have a deviation of 1.5 to 2 in the logarithm."""
GAIN = 0.1
"""By how much a limit's weight grows in a step for all of the budget that it is ahead of the others."""
ROUNDS = 60
"""Steps to the weights at the freeze, where the limits must be met."""


class Balance:
    """The limits' weights, which sum to 1."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.weights = np.full(len(budget.limits), 1 / len(budget.limits))

    def mixed(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """One cost a gate, relative to the mean, from one per limit and gate."""
        cost = np.exp(self.weights @ np.log(units))
        return np.asarray(cost / cost.mean())

    def tilt(self, w: Latent, rho: float, units: NDArray[np.float64], gain: float = GAIN) -> Latent:
        """`w` with more weight on the limits that are ahead when it is projected to `rho`."""
        if len(self.weights) == 1:
            return w
        uses = np.asarray(self.budget.uses(self.budget.opened(self.budget.project(w, rho))))
        weights = _to_simplex(self.weights + gain * (uses - uses.mean()))
        moved: Latent = w - np.float32(SLOPE) * ((weights - self.weights) @ np.log(units)).astype(np.float32)
        self.weights = weights
        return moved

    def level(self, w: Latent) -> Latent:
        """`w` tilted until all limits are met at the target at once, as nearly as that can be."""
        if len(self.weights) == 1:
            return w
        best, least = w, np.inf
        for number in range(ROUNDS):
            uses = self.budget.uses(self._opened(w))
            room = max(uses) - min(uses)
            if room < least:
                best, least = w, room
            w = self.tilt(w, self.budget.target, self.budget.unit_costs(w), gain=1 / (1 + number / 10))
        return best

    def _opened(self, w: Latent) -> Counts:
        return self.budget.opened(self.budget.project(w, self.budget.target))


def _to_simplex(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest weights that are not negative and sum to 1 (Duchi et al., ICML 2008)."""
    falling = np.sort(weights)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(weights) + 1)
    threshold = excess[np.flatnonzero(falling > excess)[-1]]
    return np.asarray(np.maximum(weights - threshold, 0))
