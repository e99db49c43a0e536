"""How far the outputs move when one group alone is narrowed: measured on inputs, honest for coupled channels.

All layers that read the group make up for what is gone before it is measured, as they will be allowed to at the end.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.branches import droppable
from onnxprune.calibration import Batches
from onnxprune.gates import PREFIX
from onnxprune.groups import Group
from onnxprune.methods.magnitude import magnitude
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.discrepancy import discrepancies
from onnxprune.recovery.pieces import Piece, Values
from onnxprune.recovery.store import Store

EIGHTHS = (7, 6, 5, 4, 3, 2, 1)
QUARTERS = (6, 4, 2)
"""Widths, in eighths of a group, at which it is measured: the latter where a model is large."""
WORK = 4e12
"""Multiply-accumulates that measuring may take: about a minute on two cores."""
FEWEST, MOST = 8, 256
"""Inputs to measure on."""


@dataclass(frozen=True)
class Curve:
    """The discrepancy at some widths of one group, everything else whole."""

    group: str
    size: int
    kept: tuple[int, ...]
    """Channels kept, descending from all of them."""
    discrepancy: tuple[float, ...]
    """Of the outputs, 0 at the first (`recovery.discrepancy`)."""
    order: tuple[int, ...]
    """Channels in the order in which they go; what is not listed goes last."""


@dataclass(frozen=True)
class Extent:
    """On how many inputs to measure, and at which widths."""

    inputs: int
    eighths: tuple[int, ...]

    @staticmethod
    def of(anatomy: Anatomy, names: Collection[str], available: int) -> "Extent":
        """As much as WORK allows."""
        count = max(len(anatomy.pieces.nodes), 1)
        rest = sum(1 - anatomy.pieces.first(name) / count for name in names)
        cost = max(rest * anatomy.costs.total["macs"], 1.0)
        for eighths in (EIGHTHS, QUARTERS):
            inputs = int(WORK / (cost * len(eighths)))
            if inputs >= 4 * FEWEST:
                break
        return Extent(min(max(inputs, FEWEST), MOST, available), eighths)


def measured_curves(
    anatomy: Anatomy, batches: Batches, names: Collection[str], scores: Mapping[str, np.ndarray] | None = None
) -> tuple[list[Curve], int]:
    """The curves of these groups, on as many of the inputs as measuring them all may take, and on how many; channels go
    by `scores`, the lowest first, where these are given.
    """
    extent = Extent.of(anatomy, names, len(batches) * batches.size)
    used = batches[: max(1, round(extent.inputs / batches.size))]
    return curves(anatomy, used, names, extent.eighths, scores or {}), len(used) * used.size


def curves(
    anatomy: Anatomy,
    batches: Sequence[Values],
    names: Collection[str],
    eighths: Sequence[int],
    scores: Mapping[str, np.ndarray],
) -> list[Curve]:
    """One curve for each of these groups, measured on these inputs in one pass from the front of the model to its end.

    `scores` say which channels of a group go first; of groups without, those that what reads them misses least.
    """
    pieces, groups = anatomy.pieces, [g for g in anatomy.groups if g.name in names]
    first = {group.name: pieces.first(group.name) for group in groups}
    whole = pieces.piece(range(len(pieces.nodes)), pieces.outputs, batches[0])
    wanted = [[whole(batch)[name] for name in whole.outputs] for batch in batches]
    empty, norms = droppable(anatomy.groups), magnitude(anatomy.groups)
    found: dict[str, Curve] = {}
    with Store() as store:
        for number, batch in enumerate(batches):
            store.step(number, batch, pieces.live(0))
        at = 0
        for group in sorted(groups, key=lambda g: first[g.name]):
            if first[group.name] > at:
                advance(anatomy, store, range(at, first[group.name]))
                at = first[group.name]
            widths = _widths(group, eighths, group.name in empty)
            given = scores.get(group.name)
            if given is None and not anatomy.readers[group.name]:
                given = norms[group.name]
            found[group.name] = _curve(anatomy, store, at, group, widths, wanted, given)
    return [found[group.name] for group in groups]


def advance(
    anatomy: Anatomy,
    store: Store,
    span: range,
    closed: frozenset[str] = frozenset(),
    weights: Values | None = None,
) -> None:
    """Moves what is stored over these nodes."""
    live = anatomy.pieces.live(span.stop, closed)
    piece = anatomy.pieces.piece(span, live, store[0], closed=closed, weights=weights)
    for number in range(len(store)):
        store.step(number, piece(store[number]), live)


def _widths(group: Group, eighths: Sequence[int], may_go: bool) -> list[int]:
    counts = {max(group.size * part // 8, 1) for part in eighths} | ({0} if may_go else set())
    return sorted(counts - {group.size}, reverse=True)


def _curve(
    anatomy: Anatomy, store: Store, at: int, group: Group, widths: Sequence[int],
    wanted: Sequence[Sequence[np.ndarray]], scores: np.ndarray | None,
) -> Curve:  # fmt: skip
    pieces, closed = anatomy.pieces, frozenset({group.name})
    elimination = anatomy.elimination(group)
    readers = [one for one, _ in anatomy.readers[group.name]]
    piece: Piece | None = None
    distances = [0.0]
    for width in widths:
        elimination.down_to(width, scores)
        latents = np.ones(group.size, dtype=np.float32)
        latents[elimination.order] = -1
        free = {f"{PREFIX}{group.name}": latents}
        for one, layer in zip(readers, elimination.layers, strict=True):
            free |= anatomy.moved(one, layer.weight)
        free = {
            name: v.astype(pieces.constant(name).dtype) for name, v in free.items() if name in pieces.stored
        }
        if piece is None:
            span = range(at, len(pieces.nodes))
            piece = pieces.piece(span, pieces.outputs, store[0], closed=closed, free=free)
        made = [piece(store[number], free) for number in range(len(store))]
        parts = [
            discrepancies(anatomy.heads, [values[name] for name in piece.outputs], target)
            for values, target in zip(made, wanted, strict=True)
        ]
        distances.append(float(np.mean(np.concatenate(parts))))
    return Curve(group.name, group.size, (group.size, *widths), tuple(distances), tuple(elimination.order))
