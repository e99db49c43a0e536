"""From latents to what is kept: counts that meet every limit, and are multiples of what the provider likes."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from onnxprune.choose import CLOSE, best_first
from onnxprune.settle import WIDTHS, allowed, settle
from onnxprune.training.budget import BARELY, ROUNDING, Budget, Counts, Latent

TRIED = 64
"""Exchanges that are counted exactly, the most promising first, before it is given up."""
COARSEST = 16
"""Steps of which other starts are made then."""


def repair(budget: Budget, w: Latent) -> Latent:
    """The highest w of each group, in a number that is allowed, so that C is as little below the target as it can.

    Close the lowest w until C <= target, then reopen the highest that still fits: one coarse gate can take C far
    below the target, and finer ones bring it back up. With `multiple_of` the numbers of open gates are rounded to
    what the provider likes. Where that leaves more room than half of CLOSE, groups exchange channels.
    """
    if budget.multiple_of == 1:
        counts = _reopened(budget, budget.project(w, budget.target)).tolist()
        ranges = [
            [*range(least, n + 1)] for n, least in zip(budget.costs.sizes, budget.floor.tolist(), strict=True)
        ]
        return _with(w, budget, _exchanged(budget, counts, ranges))
    parts, found = np.split(w, np.cumsum(budget.costs.sizes)[:-1]), list[Latent]()
    for width in WIDTHS if budget.multiple_of == "auto" else (int(budget.multiple_of),):
        limits = zip(budget.costs.sizes, budget.floor.tolist(), strict=True)
        ranges = [allowed(size, width, least, exact=budget.multiple_of != "auto") for size, least in limits]
        counts = settle(
            lambda n: budget.fraction_of(np.asarray(n)),
            budget.target,
            ranges,
            best_first(parts),
            at_most=True,
            trade=False,  # exchanges follow, under every limit
        )
        counts = _exchanged(budget, counts, ranges)
        found.append(_with(w, budget, counts))
        if np.abs(_room(budget, counts)).max() <= CLOSE:
            return found[-1]
    return next((rounded for rounded in found if budget.shortfall(rounded) is None), found[-1])


def _with(w: Latent, budget: Budget, counts: Sequence[int]) -> Latent:
    """`w` with the `counts[g]` highest of each group open, and no others."""
    order = np.lexsort((-w, budget.group_of))
    starts = np.cumsum(budget.costs.sizes) - budget.costs.sizes
    rank = np.empty(len(w), np.int64)
    rank[order] = np.arange(len(w)) - starts[budget.group_of]
    stays = rank < np.asarray(counts)[budget.group_of]
    return np.where(stays, np.maximum(w, BARELY), np.minimum(w, 0)).astype(np.float32)


def _reopened(budget: Budget, w: Latent) -> Counts:
    """How many gates are open with the highest closed ones reopened, as many as fit."""
    opened, group = budget.opened(w), budget.group_of
    full = np.zeros(len(opened), bool)
    shut = np.flatnonzero(w <= 0)
    for gate in shut[np.argsort(-w[shut], kind="stable")]:
        g = group[gate]
        if full[g]:
            continue  # opening others has only made this group's channels dearer
        opened[g] += 1
        if budget.fraction_of(opened) > budget.target + ROUNDING:
            opened[g] -= 1
            full[g] = True
    return opened


def _exchanged(budget: Budget, counts: Sequence[int], ranges: Sequence[Sequence[int]]) -> list[int]:
    """`counts` of open channels, each of its range, with room of at most half of CLOSE in every limit, if that can be.

    Where exchanges do not get there from `counts`, they start again with one or two groups a step up or down, the
    coarsest groups first: a trunk's 8 channels too few are made up for by all its branches together.
    """
    counts = list(counts)
    if _room(budget, [r[0] for r in ranges]).min() < 0:
        return counts  # not even the least fits
    best = _descended(budget, counts, ranges)
    least, around, last = _worth(budget, best), counts, None
    while least > CLOSE / 2 and around != last:
        for start in _kicked(budget, around, ranges):
            found = _descended(budget, start, ranges)
            if (worth := _worth(budget, found)) < least:
                best, least = found, worth
            if least <= CLOSE / 2:
                break
        around, last = best, around
    return _filled(budget, best, ranges)


def _descended(budget: Budget, counts: list[int], ranges: Sequence[Sequence[int]]) -> list[int]:
    """As near to the limits as exchanges get from `counts`: each takes a group a step down, another one up, or one of
    both. They may touch one channel in twenty, or every group once, so that what the gates have learnt is not given up
    for a count.
    """
    worth = _worth(budget, counts)
    for _ in range(max(len(counts), sum(budget.costs.sizes) // 20)):
        if worth <= CLOSE / 2:
            break
        for moved in _moves(budget, counts, ranges):
            if (better := _worth(budget, moved)) < worth - 1e-6:
                counts, worth = moved, better
                break
        else:
            break
    return counts


def _worth(budget: Budget, counts: Sequence[int]) -> float:
    """The most room that a limit leaves; above a limit 1 and more, whatever is within them comes first."""
    room = _room(budget, counts)
    return float(room.max() if room.min() >= 0 else 1 - room.min())


def _kicked(budget: Budget, counts: list[int], ranges: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """`counts` with one or two groups a step up or down, of the steps that exchanges of others cannot stand for."""
    up, down = _steps(counts, ranges)
    steps = np.concatenate([np.diag(up), -np.diag(down)])
    changes = np.abs(steps) @ _units(budget, counts).max(0)
    order = np.argsort(-changes, kind="stable")[:COARSEST]
    coarsest = steps[order[changes[order] > CLOSE / 2]]
    for number in (1, 2):
        for taken in combinations(coarsest, number):
            moved = np.asarray(counts) + sum(taken)
            if all(n in r for n, r in zip(moved, ranges, strict=True)):
                yield [int(n) for n in moved]


def _filled(budget: Budget, counts: list[int], ranges: Sequence[Sequence[int]]) -> list[int]:
    """With every step up that still fits, the dearest first."""
    dearest = np.argsort(-_steps(counts, ranges)[0] * _units(budget, counts).max(0), kind="stable")
    for g in dearest.tolist():
        for more in (n for n in ranges[g] if n > counts[g]):
            moved = [*counts[:g], more, *counts[g + 1 :]]
            if _room(budget, moved).min() < 0:
                break  # opening other groups has only made this one's channels dearer
            counts = moved
    return counts


def _room(budget: Budget, counts: Sequence[int]) -> NDArray[np.float64]:
    """What each limit leaves, as fractions; a rounding error below 0 is none."""
    shares = budget.shares(np.asarray(counts, np.int64))
    room = np.asarray([limit - shares[by] for by, limit in budget.limits.items()])
    return np.where(np.abs(room) < 1e-9, 0, room)


def _moves(budget: Budget, counts: list[int], ranges: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The most promising exchanges, by what a channel of each group costs now."""
    room = _room(budget, counts)
    up, down = (np.append(steps, 0) for steps in _steps(counts, ranges))
    units = np.append(_units(budget, counts), np.zeros((len(room), 1)), 1)
    left = room[:, None, None] + (units * down)[:, :, None] - (units * up)[:, None, :]  # (limits, down, up)
    worth = left.max(0) + 10 * np.maximum(-left, 0).max(0)
    worth[np.arange(len(up)), np.arange(len(up))] = np.inf
    for best in np.argsort(worth, axis=None)[:TRIED]:
        g, h = (int(i) for i in np.unravel_index(best, worth.shape))
        moved = [*counts, 0]
        moved[g] -= int(down[g])
        moved[h] += int(up[h])
        yield moved[:-1]


def _units(budget: Budget, counts: Sequence[int]) -> NDArray[np.float64]:
    """What one more channel of each group costs, as a fraction of each limit's whole, shape (limits, groups)."""
    return np.stack([budget.costs.unit_costs(by, counts) / whole for by, whole in budget.wholes.items()])


def _steps(counts: list[int], ranges: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many channels a step up and a step down of each group is; 0 at the end of its range."""
    places = [(r, list(r).index(n)) for r, n in zip(ranges, counts, strict=True)]
    up = [r[min(p + 1, len(r) - 1)] - r[p] for r, p in places]
    down = [r[p] - r[max(p - 1, 0)] for r, p in places]
    return np.asarray(up, np.int64), np.asarray(down, np.int64)
