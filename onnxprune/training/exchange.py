"""The last hundredth of a budget: a step of one group for a step of another, until every limit is met."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.choose import CLOSE
from onnxprune.training.budget import Budget

TRIED = 64
"""Exchanges that are counted exactly, the most promising first, before it is given up."""


def exchanged(budget: Budget, counts: Sequence[int], ranges: Sequence[Sequence[int]]) -> list[int]:
    """`counts` of open channels, each of its range, with room of at most half of CLOSE in every limit, if that can be.

    Each move takes one group a step down, another one a step up, or either alone. They may touch one channel in twenty,
    or every group once, so that what the gates have learnt is not given up for a count.
    """
    counts = list(counts)
    for _ in range(max(len(counts), sum(budget.costs.sizes) // 20)):
        room = _room(budget, counts)
        if room.min() < 0 or room.max() <= CLOSE / 2:
            break
        found = next(
            (
                moved
                for moved in _moves(budget, counts, ranges, room)
                if (left := _room(budget, moved)).min() >= 0 and left.max() < room.max() - 1e-6
            ),
            None,
        )
        if found is None:
            break
        counts = found
    return counts


def _room(budget: Budget, counts: Sequence[int]) -> NDArray[np.float64]:
    """What each limit leaves, as fractions; a rounding error below 0 is none."""
    shares = budget.shares(np.asarray(counts, np.int64))
    room = np.asarray([limit - shares[by] for by, limit in budget.limits.items()])
    return np.where(np.abs(room) < 1e-9, 0, room)


def _moves(
    budget: Budget, counts: list[int], ranges: Sequence[Sequence[int]], room: NDArray[np.float64]
) -> list[list[int]]:
    """The most promising moves, by what a channel of each group costs now."""
    places = [list(r).index(n) for r, n in zip(ranges, counts, strict=True)]
    up = np.asarray([r[min(p + 1, len(r) - 1)] - r[p] for r, p in zip(ranges, places, strict=True)] + [0])
    down = np.asarray([r[p] - r[max(p - 1, 0)] for r, p in zip(ranges, places, strict=True)] + [0])
    units = np.stack(
        [np.append(budget.costs.unit_costs(by, counts), 0) / whole for by, whole in budget.wholes.items()]
    )
    left = room[:, None, None] + (units * down)[:, :, None] - (units * up)[:, None, :]  # (limits, down, up)
    short = np.maximum(-left, 0).max(0)
    worth = left.max(0) + 10 * short
    worth[np.arange(len(up)), np.arange(len(up))] = np.inf
    found = []
    for best in np.argsort(worth, axis=None)[:TRIED]:
        g, h = (int(i) for i in np.unravel_index(best, worth.shape))
        moved = [*counts, 0]
        moved[g] -= int(down[g])
        moved[h] += int(up[h])
        found.append(moved[:-1])
    return found
