"""How many channels of each group stay: counts that kernels like, whose cost is nearest to what is asked for."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice

WIDTHS = (16, 8, 4, 1)
"""Steps of kept counts to try for `auto`, widest first: onnxruntime's CPU kernels work on 16 lanes, and counts between
run slower than the full width (measured on AVX-512: 33 of 64 channels 0.9x, 32 of 64 2.3x as fast). Narrower steps
serve groups, or ratios, too small for the wide ones."""
NARROWEST = 2
"""A group is stepped through in at least so many steps."""
NEAR = 1e-4
"""How far below the target is close enough to try no more single steps."""

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


def settle(
    fraction: Fraction, target: float, ranges: Sequence[list[int]], wanted: Wanted, *, at_most: bool = False
) -> list[int]:
    """Allowed counts whose cost is nearest to the target (`at_most`: and not above), each close to what is wanted."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        real = [min(max(w, r[0]), r[-1]) for w, r in zip(wanted(middle), ranges, strict=True)]
        low, high = (middle, high) if fraction(real) < target else (low, middle)
    real = wanted(high)
    counts = [max([n for n in r if n <= w + 1e-9], default=r[0]) for w, r in zip(real, ranges, strict=True)]
    return _fill(fraction, target, ranges, real, counts, at_most)


def _fill(
    fraction: Fraction,
    target: float,
    ranges: Sequence[list[int]],
    real: list[float],
    counts: list[int],
    at_most: bool,
) -> list[int]:
    """Steps up, the group furthest below its wish first, while that brings the cost closer to the target."""
    counts = _climb(fraction, target, ranges, real, counts)
    reached = fraction(counts)
    closed: set[int] = set()
    while target - reached > NEAR:
        open_groups = [g for g in range(len(counts)) if g not in closed and counts[g] < ranges[g][-1]]
        if not open_groups:
            break
        g = max(open_groups, key=lambda k: (real[k] - counts[k]) / ranges[k][-1])
        candidate = list(counts)
        candidate[g] = ranges[g][ranges[g].index(counts[g]) + 1]
        closer = fraction(candidate)
        if abs(closer - target) < abs(reached - target) and not (at_most and closer > target):
            counts, reached = candidate, closer
        else:
            closed.add(g)
    return counts


def _climb(
    fraction: Fraction, target: float, ranges: Sequence[list[int]], real: list[float], counts: list[int]
) -> list[int]:
    """The first of these steps, as many as stay below the target: found by halving, as each look costs a count."""
    steps = _steps(ranges, real, counts)
    order: list[int] = []

    def after(number: int) -> list[int]:
        taken = Counter(order[:number])
        return [r[r.index(n) + taken[g]] for g, (r, n) in enumerate(zip(ranges, counts, strict=True))]

    low, high = 0, 1
    while True:
        order += islice(steps, high - len(order))
        high = len(order)
        if high == low or fraction(after(high)) > target:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fraction(after(middle)) > target else (middle, high)
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
