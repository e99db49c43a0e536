"""From curves to scores: what each channel is worth per unit of cost, comparable between groups."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from onnxprune.cost import CostModel
from onnxprune.recovery.sensitivity import Curve

STEEPER = 1e3
"""What the channels that were never taken away are worth, over the dearest of those that were."""
HIGHEST = 1e30
"""Stands for the infinite discrepancy of outputs that are no numbers."""
FAINTEST = 1e-200
"""Keeps channels in their order where all are worth nothing."""


def scores(curves: Sequence[Curve], costs: CostModel, by: str, ratio: float) -> dict[str, np.ndarray]:
    """Per group one score a channel, shape (size,): the slope of its curve's lower convex hull where the channel goes,
    per what it saves at the ratio asked for. Groups without a curve score infinitely high.
    """
    part = ratio if by == "channels" else float(np.sqrt(ratio))
    unit = dict(zip(costs.names, costs.unit_costs(by, [n * part for n in costs.sizes]), strict=True))
    found = {name: np.full(size, np.inf) for name, size in zip(costs.names, costs.sizes, strict=True)}
    for curve in curves:
        if len(curve.kept) > 1:  # else of one channel, which stays
            found[curve.group] = worth(curve) / max(float(unit[curve.group]), 1e-12)
    return found


def worth(curve: Curve, last: float = STEEPER) -> np.ndarray:
    """What each channel of a group of two or more adds to the discrepancy as it goes, shape (size,).

    Channels that were never taken away are worth `last` times as much as the dearest of those that were.
    """
    steps = slopes(curve)
    gone, rank = np.asarray(curve.order, dtype=np.intp), np.arange(len(curve.order))
    values = np.full(curve.size, float(steps[-1]) * last + FAINTEST * curve.size)
    values[gone] = steps * (1 + 1e-6 * rank) + FAINTEST * rank  # of equal ones the first goes first
    return values


def slopes(curve: Curve) -> np.ndarray:
    """The discrepancy that each channel adds as it goes, ascending, shape (most that were taken away,)."""
    gone = [curve.size - n for n in curve.kept]
    height = np.maximum.accumulate(np.minimum(curve.discrepancy, HIGHEST))
    hull = [0]
    while hull[-1] < len(gone) - 1:
        here = hull[-1]
        rise = [(height[k] - height[here]) / (gone[k] - gone[here]) for k in range(here + 1, len(gone))]
        hull.append(here + 1 + int(np.flatnonzero(np.asarray(rise) == min(rise))[-1]))
    found = np.zeros(gone[-1])
    for start, stop in pairwise(hull):
        found[gone[start] : gone[stop]] = (height[stop] - height[start]) / (gone[stop] - gone[start])
    return found
