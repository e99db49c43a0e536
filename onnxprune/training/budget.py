"""The budget: how much may stay open, and how the gates are held to it.

Gates are one flat float32 vector w, group after group; a gate is open where w > 0. C(w) is the cost of the
open channels, in what `by` counts, as a fraction of the cost with all gates open. With several limits, such as MACs
0.5 and parameters 0.4, it is the largest of theirs, each brought to the first one's scale: 1 with all gates open,
the first one's ratio where its own is met.

    budget = Budget.of(costs, {"macs": 0.5})
    w = budget.project(w, ramp(step, steps, budget.target))     # each step: C(w) <= rho(t)
    w = repair(budget, w)                                       # at the freeze: C(w) <= target, see repair.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxprune.choose import CLOSE
from onnxprune.errors import TrainingError

Latent: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]

BARELY = 1e-4  # where a gate is put that a projection must keep open: far below the spread of a ranked start
ROUNDING = 1e-9  # slack of a comparison of two fractions


class Costs(Protocol):
    """What the budget asks of a cost model; `onnxprune.cost.CostModel` is one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def sizes(self) -> tuple[int, ...]: ...

    def count(self, by: Any, opened: Sequence[Any], /) -> Any: ...

    def unit_costs(self, by: Any, opened: Sequence[Any], /) -> NDArray[np.float64]: ...


def ramp(step: int, steps: int, target: float, start: float = 1.0) -> float:
    """rho(t): falls linearly from `start` to `target` over `steps` steps, then stays."""
    return target if step >= steps else start + (target - start) * step / steps


def floors(sizes: Sequence[int], least: int = 2, share: float = 0.05) -> Counts:
    """How many channels each group keeps at least: max(least, share of its size), never more than it has."""
    return np.asarray([min(size, max(least, int(np.ceil(share * size)))) for size in sizes], np.int64)


@dataclass(frozen=True)
class Budget:
    """At most so much of what each limit counts, and at least `floor` channels in each group."""

    costs: Costs
    limits: Mapping[str, float]
    """The ratio of each count; the first one is what `target` and the ramp are of."""
    floor: Counts
    wholes: Mapping[str, float]
    multiple_of: int | str = 1

    @staticmethod
    def of(
        costs: Costs,
        limits: Mapping[str, float],
        *,
        least: int = 2,
        share: float = 0.05,
        multiple_of: int | str = 1,
    ) -> "Budget":
        """Raises TrainingError where there is nothing to decide or a ratio is no fraction."""
        for by, target in limits.items():
            if not 0 < target <= 1:
                raise TrainingError(
                    f"ratio {target:g} of the {by} is not a fraction kept: give a number above 0 and up to 1"
                )
        if not costs.sizes:
            raise TrainingError(
                "the model has no channel group that can be pruned: nothing to train gates for"
            )
        wholes = {by: float(costs.count(by, costs.sizes)) for by in limits}
        return Budget(costs, limits, floors(costs.sizes, least, share), wholes, multiple_of)

    @property
    def target(self) -> float:
        """The first limit's ratio."""
        return next(iter(self.limits.values()))

    @property
    def gates(self) -> int:
        """How many gates there are: the length of w."""
        return sum(self.costs.sizes)

    @property
    def least(self) -> float:
        """The smallest C the floor allows."""
        return self.fraction_of(self.floor)

    def fraction_of(self, opened: Counts) -> float:
        """C with `opened[g]` channels of group g open."""
        return max(self.uses(opened))

    def uses(self, opened: Counts) -> list[float]:
        """Each limit's fraction, on the first one's scale."""
        closes, found = 1 - self.target, []
        for (by, share), limit in zip(self.shares(opened).items(), self.limits.values(), strict=True):
            own = next(iter(self.limits)) == by or limit == 1
            found.append(share if own else 1 - (1 - share) * (closes / (1 - limit)))
        return found

    def shares(self, opened: Counts) -> dict[str, float]:
        """Each limit's own fraction."""
        counts = opened.tolist()
        return {by: float(self.costs.count(by, counts)) / whole for by, whole in self.wholes.items()}

    def opened(self, w: Latent) -> Counts:
        """How many gates of each group are open."""
        return self._per_group(w > 0)

    def fraction(self, w: Latent) -> float:
        """C(w)."""
        return self.fraction_of(self.opened(w))

    def unit_costs(self, w: Latent) -> NDArray[np.float64]:
        """What closing one more channel of its group saves, per limit and gate, relative to the mean over all gates."""
        opened, found = self.opened(w).tolist(), []
        for by in self.limits:
            each = np.repeat(np.asarray(self.costs.unit_costs(by, opened), np.float64), self.costs.sizes)
            mean = each.mean()
            found.append(np.maximum(each, 1e-3 * mean) / mean if each.any() else np.ones_like(each))
        return np.stack(found)

    def penalty(self, opened: Sequence[Any]) -> Any:
        """`|target - C|^2` of the paper, summed over the limits, differentiable through the numbers of open channels.

        A penalty only pulls: nothing makes C arrive at the target, or stay there.
        """
        return sum(
            (self.costs.count(by, opened) / self.wholes[by] - limit) ** 2 for by, limit in self.limits.items()
        )

    def shortfall(self, w: Latent, *, pulled: bool = False) -> str | None:
        """Why the limits were missed by more than CLOSE; None where they were not. `pulled`: by a penalty only."""
        shares, least = self.shares(self.opened(w)), self.shares(self.floor)
        off = {by: shares[by] - limit for by, limit in self.limits.items()}
        over = [by for by, by_how_much in off.items() if by_how_much > CLOSE]
        if not over and max(off.values()) >= -CLOSE:
            return None  # the other limits may have room left
        by = over[0] if over else max(off, key=lambda limit: off[limit])
        if pulled:
            why = "a penalty only pulls towards it: use the budget projection to meet it"
        elif least[by] > self.limits[by]:
            why = f"the least channels per group keep {least[by]:.3f}: lower them, or ask for more"
        else:
            why = "one channel of the coarsest group, or one step of multiple-of, counts for more"
        return f"asked for {self.limits[by]:g} of the {by}, reached {shares[by]:.4f}: {why}"

    def project(self, w: Latent, rho: float) -> Latent:
        """Shift all of w equally, and by as little as it takes, so that C is the largest possible <= rho.

        The highest gates of a group, as many as its floor, stay open whatever the shift. Where even that is
        too much (rho < `least`), all others are closed. Bisection over the number of closed gates.
        """
        held = self._held(w)
        order = np.flatnonzero(~held)
        order = order[np.argsort(w[order], kind="stable")]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self._closing(order[:middle]) <= rho + ROUNDING:
                high = middle
            else:
                low = middle + 1
        closed, rest = order[:low], order[low:]
        shifted = w + np.float32(_shift(w[closed], w[rest]))
        shifted[closed] = np.minimum(shifted[closed], 0)
        shifted[rest] = np.maximum(shifted[rest], BARELY)
        shifted[held] = np.maximum(shifted[held], BARELY)
        return shifted

    def _closing(self, gates: NDArray[np.intp]) -> float:
        closed = np.bincount(self.group_of[gates], minlength=len(self.costs.sizes))
        return self.fraction_of(np.asarray(self.costs.sizes, np.int64) - closed)

    def _held(self, w: Latent) -> NDArray[np.bool_]:
        group = self.group_of
        order = np.lexsort((-w, group))
        starts = np.cumsum(self.costs.sizes) - self.costs.sizes
        held = np.zeros(len(w), bool)
        held[order] = np.arange(len(w)) - starts[group] < self.floor[group]
        return held

    @cached_property
    def group_of(self) -> NDArray[np.intp]:
        """Which group each gate is of."""
        return np.repeat(np.arange(len(self.costs.sizes)), self.costs.sizes)

    def _per_group(self, flags: NDArray[np.bool_]) -> Counts:
        return np.bincount(self.group_of, weights=flags, minlength=len(self.costs.sizes)).astype(np.int64)


def _shift(closed: Latent, rest: Latent) -> float:
    """The shift that takes `closed` (ascending) to 0 or below and `rest` above it; 0 where they are there."""
    if not closed.size and not rest.size:
        return 0.0
    low = float(closed[-1]) if closed.size else float(rest[0]) - 2 * BARELY
    high = float(rest[0]) if rest.size else float(closed[-1]) + 2 * BARELY
    return 0.0 if low <= 0 < high else -(low + high) / 2
