"""How many channels of each group stay: counts that kernels like, whose cost is nearest to what is asked for."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

import numpy as np

WIDTHS = (16, 8, 4, 1)
"""Steps of kept counts to try for `auto`, widest first: onnxruntime's CPU kernels work on 16 lanes, and counts between
run slower than the full width (measured on AVX-512: 33 of 64 channels 0.9x, 32 of 64 2.3x as fast). Narrower steps
serve groups, or ratios, too small for the wide ones."""
NARROWEST = 2
"""A group is stepped through in at least so many steps."""
NEAR = 1e-4
"""How far below the target is close enough to try no more single steps."""
GAP = 0.002
"""How far from the target is close enough to trade no steps between groups, as a fraction of the whole cost."""
PRICE = 0.005
"""How much closer to the target a trade must bring the cost for taking groups away from what is wanted of them, per
whole group: a quarter of one group for 0.00125 of the cost."""
SEEN = 24
"""Groups whose next step up, and whose next step down, is measured before each trade, those nearest their wish."""
TRIED = 32
"""Trades that are counted exactly, the most promising first, before it is given up."""
ROUNDING = 1e-9
"""How far above the target a trade at most may seem to be before it is counted exactly."""
TRADES = 4
"""How many are made at most, each for at most 2 * SEEN + TRIED counts of the cost."""

Wanted = Callable[[float], list[float]]
"""How many channels each group would keep, as real numbers, at a setting from 0 (least) to 1 (all)."""
Fraction = Callable[[Sequence[float]], float]
"""What is left of the cost with these numbers of channels kept."""


def allowed(size: int, widest: int, least: int = 1, *, exact: bool = False) -> list[int]:
    """Counts from `least` to `size` in steps of `widest`, or of the next narrower width that divides the group often
    enough (`exact`: of `widest` whatever the group); `size` itself is always allowed.
    """
    step = widest if exact else next(w for w in WIDTHS if w <= widest and (w == 1 or w * NARROWEST <= size))
    return [*(n for n in range(step, size, step) if n >= least), size]


@dataclass(frozen=True)
class _Asked:
    """What is asked of the counts."""

    fraction: Fraction
    target: float
    ranges: Sequence[list[int]]
    real: list[float]
    """How many channels of each group are wanted."""
    at_most: bool

    def better(self, cost: float, than: float) -> bool:
        """Whether this cost is closer to the target, and allowed."""
        closer = abs(cost - self.target) < abs(than - self.target)
        return closer and not (self.at_most and cost > self.target)


def settle(
    fraction: Fraction,
    target: float,
    ranges: Sequence[list[int]],
    wanted: Wanted,
    *,
    at_most: bool = False,
    trade: bool = True,
) -> list[int]:
    """Allowed counts whose cost is nearest to the target (`at_most`: and not above), each close to what is wanted.

    `trade`: some further from it, where that brings the cost nearer; else as near as single steps up come.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        real = [min(max(w, r[0]), r[-1]) for w, r in zip(wanted(middle), ranges, strict=True)]
        low, high = (middle, high) if fraction(real) < target else (low, middle)
    real = wanted(high)
    counts = [max([n for n in r if n <= w + 1e-9], default=r[0]) for w, r in zip(real, ranges, strict=True)]
    asked = _Asked(fraction, target, ranges, real, at_most)
    filled = _filled(asked, counts)
    return _traded(asked, filled) if trade else filled


def _filled(asked: _Asked, counts: list[int]) -> list[int]:
    """Steps up, the group furthest below its wish first, while that brings the cost closer to the target."""
    ranges, real = asked.ranges, asked.real
    counts = _climbed(asked, counts)
    reached = asked.fraction(counts)
    closed: set[int] = set()
    while asked.target - reached > NEAR:
        open_groups = [g for g in range(len(counts)) if g not in closed and counts[g] < ranges[g][-1]]
        if not open_groups:
            break
        g = max(open_groups, key=lambda k: (real[k] - counts[k]) / ranges[k][-1])
        candidate = list(counts)
        candidate[g] = ranges[g][ranges[g].index(counts[g]) + 1]
        cost = asked.fraction(candidate)
        if asked.better(cost, reached):
            counts, reached = candidate, cost
        else:
            closed.add(g)
    return counts


def _climbed(asked: _Asked, counts: list[int]) -> list[int]:
    """The first of these steps, as many as stay below the target: found by halving, as each look costs a count."""
    steps = _steps(asked.ranges, asked.real, counts)
    order: list[int] = []

    def after(number: int) -> list[int]:
        taken = Counter(order[:number])
        return [r[r.index(n) + taken[g]] for g, (r, n) in enumerate(zip(asked.ranges, counts, strict=True))]

    low, high = 0, 1
    while True:
        order += islice(steps, high - len(order))
        high = len(order)
        if high == low or asked.fraction(after(high)) > asked.target:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if asked.fraction(after(middle)) > asked.target else (middle, high)
    return after(low)


def _steps(ranges: Sequence[list[int]], real: list[float], counts: list[int]) -> Iterator[int]:
    """The group that each step is of, while there is one."""
    at = [r.index(n) for r, n in zip(ranges, counts, strict=True)]
    waiting = [
        ((n - w) / r[-1], g)
        for g, (n, w, r) in enumerate(zip(counts, real, ranges, strict=True))
        if n < r[-1]
    ]
    heapify(waiting)
    while waiting:
        _, g = heappop(waiting)
        yield g
        at[g] += 1
        if at[g] + 1 < len(ranges[g]):
            heappush(waiting, ((ranges[g][at[g]] - real[g]) / ranges[g][-1], g))


@dataclass(frozen=True)
class _Step:
    """One step or two of a group, up or down, and what is expected of it."""

    group: int
    count: int
    dearer: float
    """By how much the cost grows, as a fraction of the whole."""
    strays: float
    """How much further from its wish the group is then, as a fraction of it."""


def _traded(asked: _Asked, counts: list[int]) -> list[int]:
    """Steps of one group against steps of another while the cost is off by more than GAP and they bring it closer."""
    reached = asked.fraction(counts)
    for _ in range(TRADES):
        if abs(reached - asked.target) <= GAP:
            break
        for trade in _trades(asked, _around(asked, counts, reached), reached):
            candidate = list(counts)
            for step in trade:
                candidate[step.group] = step.count
            cost = asked.fraction(candidate)
            strays = sum(step.strays for step in trade)
            gained = abs(reached - asked.target) - max(abs(cost - asked.target), GAP)
            if asked.better(cost, reached) and gained > PRICE * strays:
                counts, reached = candidate, cost
                break
        else:
            break
    return counts


def _around(asked: _Asked, counts: list[int], reached: float) -> list[_Step]:
    """One step and two, up and down, of the groups that stay nearest their wish; the second's cost is taken to be as
    much a channel as the first's.
    """
    found = []
    for way in (1, -1):
        nearest: list[tuple[float, int, list[int]]] = []
        for g, (r, n, wish) in enumerate(zip(asked.ranges, counts, asked.real, strict=True)):
            at = r.index(n)
            ahead = r[at + 1 : at + 3] if way > 0 else r[max(at - 2, 0) : at][::-1]
            if ahead:
                nearest.append((_strays(n, ahead[0], wish, r), g, ahead))
        for _, g, ahead in sorted(nearest)[:SEEN]:
            candidate = [*counts[:g], ahead[0], *counts[g + 1 :]]
            each = (asked.fraction(candidate) - reached) / (ahead[0] - counts[g])
            for count in ahead:
                strays = _strays(counts[g], count, asked.real[g], asked.ranges[g])
                found.append(_Step(g, count, each * (count - counts[g]), strays))
    return found


def _strays(count: int, to: int, wish: float, range_: list[int]) -> float:
    return (abs(to - wish) - abs(count - wish)) / range_[-1]


def _trades(asked: _Asked, steps: list[_Step], reached: float) -> Iterator[tuple[_Step, ...]]:
    """Steps of up to three groups that promise to be worth it together, the most promising first."""
    dearer = np.asarray([0.0, 0.0, *(step.dearer for step in steps)])
    strays = np.asarray([0.0, 0.0, *(step.strays for step in steps)])
    group = np.asarray([-2, -1, *(step.group for step in steps)])
    number = np.arange(len(group))
    taken = np.nonzero((number[:, None, None] < number[:, None]) & (number[:, None] < number))
    one, other, third = (group[k] for k in taken)
    gap = reached - asked.target + sum(dearer[k] for k in taken)
    worth = np.maximum(np.abs(gap), GAP) + PRICE * sum(strays[k] for k in taken)
    refused = (one == other) | (one == third) | (other == third) | (asked.at_most & (gap > ROUNDING))
    worth[refused | (worth >= abs(reached - asked.target))] = np.inf
    for best in np.argsort(worth, kind="stable")[:TRIED]:
        if worth[best] < np.inf:
            yield tuple(steps[k[best] - 2] for k in taken if k[best] > 1)
