"""Weights fitted anew, front to back, to what the whole model computed: each op on the inputs that it will get."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.gates import PREFIX
from onnxprune.recovery.anatomy import POSITIONS, Anatomy
from onnxprune.recovery.contractions import Contraction, gone
from onnxprune.recovery.definite import solved
from onnxprune.recovery.elimination import Elimination, Layer
from onnxprune.recovery.following import Offset
from onnxprune.recovery.moments import Moments, damped
from onnxprune.recovery.pieces import Values
from onnxprune.recovery.sensitivity import advance
from onnxprune.recovery.store import Store
from onnxprune.recovery.windows import Floats

log = logging.getLogger(__name__)

FAINT = 1e-3
"""A BatchNormalization that scales a channel down so far, relative to the others, takes no correction of a residual."""


@dataclass
class Rebuilding:
    """The pruned model beside the whole one, both at the same node; `run` takes them to the end."""

    anatomy: Anatomy
    kept: dict[str, np.ndarray]
    """Channels that stay, by group, ascending."""
    settles: bool = True
    """Whether of a group that one op alone reads the op settles anew which channels stay, as many as before."""
    repair: str = "weights"
    """What is fitted, one of `calibration.REPAIRS` but "none"."""
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """Initializers that are changed, whole: what goes is cut out of them later."""

    def __post_init__(self) -> None:
        self.open = {name: len(kept) for name, kept in self.kept.items()}
        self.narrowed = [g for g in self.anatomy.groups if self.open.get(g.name, g.size) < g.size]
        self.at: dict[str, list[str]] = {}
        """Per contraction the groups that it settles."""
        for group in self.narrowed:
            readers = self.anatomy.readers[group.name]
            settles = self.settles and self.repair == "weights"
            if settles and len(readers) == 1 and self._is_gated_once(group.name):
                self.at.setdefault(readers[0][0].name, []).append(group.name)
        settled = {name for names in self.at.values() for name in names}
        self.closed = frozenset(g.name for g in self.narrowed) - settled
        self.latents = {
            PREFIX + g.name: self._latents(g.name, g.size) for g in self.narrowed if g.name in self.closed
        }
        self.removed = self.anatomy.groups.removed({name: self.kept[name] for name in self.closed})
        self.dirty: set[str] = set()

    def _is_gated_once(self, group: str) -> bool:
        return sum(1 for _ in self.anatomy.pieces.sites(group)) == 1

    def _latents(self, name: str, size: int) -> np.ndarray:
        return np.where(np.isin(np.arange(size), self.kept[name]), 1.0, -1.0).astype(np.float32)

    def run(self, batches: Sequence[Values]) -> None:
        """Fits all that reads other values than before."""
        if not self.narrowed:
            return
        pieces = self.anatomy.pieces
        with Store() as whole, Store() as pruned:
            for number, batch in enumerate(batches):
                whole.step(number, batch, pieces.live(0))
                pruned.step(number, batch, pieces.live(0))
            at = 0
            for one in self.anatomy.contractions:
                stop = pieces.number[one.name]
                self._spoil(range(at, stop))
                if self._is_changed(one):
                    advance(self.anatomy, whole, range(at, stop))
                    advance(
                        self.anatomy, pruned, range(at, stop), self.closed, {**self.latents, **self.weights}
                    )
                    at = stop
                    self._fit(one, self._moments(one, whole, pruned))
                    self.dirty.add(pieces.nodes[stop].output[0])

    def _spoil(self, span: range) -> None:
        """Notes which values of these nodes are not those of the whole model any more."""
        pieces = self.anatomy.pieces
        for node in pieces.nodes[span.start : span.stop]:
            shut = any(pieces.groups.get(name, frozenset()) & self.closed for name in node.input)
            if shut or any(name in self.dirty for name in pieces.sources(node)):
                self.dirty |= set(node.output)

    def _is_changed(self, one: Contraction) -> bool:
        node = self.anatomy.pieces.nodes[self.anatomy.pieces.number[one.name]]
        other = one.sum is not None and one.sum.other in self.dirty
        return one.name in self.at or other or node.input[0] in self.dirty or self._loses_rows(one)

    def _loses_rows(self, one: Contraction) -> bool:
        return any(bool(rows.any()) for rows in gone(one, self.removed))

    def _moments(self, one: Contraction, whole: Store, pruned: Store) -> Moments:
        """Of what it reads now, and of what it should give: the whole model's output, and what the residual lacks."""
        found, anatomy = Moments(), self.anatomy
        names = anatomy.input_of(one), anatomy.input_of(one, self.closed)
        weight = anatomy.weight(one).astype(np.float32)
        own = one.offset is not None and one.offset.own
        bias = anatomy.pieces.constant(one.offset.name) if one.offset is not None and own else None
        for number in range(len(whole)):
            theirs, ours = whole[number], pruned[number]
            x = theirs[names[0]]
            chosen = one.pick(x.shape, POSITIONS, anatomy.draw(one, number))
            target = np.matmul(one.patches(x, chosen), weight)
            if bias is not None:
                target += bias.astype(np.float32).reshape(one.blocks, 1, one.outputs)
            if one.sum is not None and one.sum.other in theirs and one.sum.other in ours:
                lack = one.results(theirs[one.sum.other], chosen) - one.results(ours[one.sum.other], chosen)
                target += lack * _inverse(one.sum.scale).reshape(one.blocks, 1, one.outputs)
            found.add(one.patches(ours[names[1]], chosen), target)
        return found

    def _fit(self, one: Contraction, moments: Moments) -> None:
        before = self.anatomy.weight(one)
        after = self._refitted(one, before, moments) if self.repair == "weights" else before
        if self.repair == "statistics":
            after = before * _rescaling(before, moments, centred=one.offset is not None)[:, None]
        if not self._put(one, after, moments):
            log.debug("%s: its least squares problem has no sound solution; it keeps its weights", one.name)
            self.weights[one.weight] = self._as_stored(one.weight, one.weights(self._cut(one, before)))

    def _refitted(self, one: Contraction, before: Floats, moments: Moments) -> Floats:
        """Ridge regression towards the weights that it had, then the channels that it can do without best."""
        centred = one.offset is not None
        covariance, cross = moments.covariance(centred=centred), moments.cross(centred=centred)
        hessian = damped(covariance, moments.count)
        lack = cross - covariance @ before
        names = self.at.get(one.name, [])
        if not names:
            return np.asarray(before + solved(hessian, lack))
        layer = Layer.of(hessian, before, [])
        for block, inverse in enumerate(layer.inverse):
            layer.weight[block] += inverse @ lack[block]
        for name in names:
            layer.rows = self._rows(one, name)
            elimination = Elimination(len(layer.rows[0]), [layer])
            elimination.down_to(self.open[name])
            self.kept[name] = np.sort(elimination.left)
        return layer.weight

    def _cut(self, one: Contraction, weight: Floats) -> Floats:
        """The matrix without the rows of channels that this op settled to go."""
        found = weight.copy()
        for name in self.at.get(one.name, []):
            for block, of_channels in zip(found, self._rows(one, name), strict=True):
                block[np.delete(of_channels, self.kept[name], axis=0)] = 0
        return found

    def _rows(self, one: Contraction, group: str) -> list[np.ndarray]:
        return next(rows for reader, rows in self.anatomy.readers[group] if reader is one)

    def _put(self, one: Contraction, weight: Floats, moments: Moments) -> bool:
        """Gives the op this matrix, unless numbers in it are beyond the element type; whether it did."""
        found = {one.weight: self._as_stored(one.weight, one.weights(weight))}
        if one.offset is not None:
            found[one.offset.name] = self._as_stored(
                one.offset.name, self._constant(one.offset, one, weight, moments)
            )
        sound = all(np.isfinite(values).all() for values in found.values())
        if sound:
            self.weights |= found
        return sound

    def _as_stored(self, name: str, values: Floats) -> np.ndarray:
        old = self.anatomy.pieces.constant(name)
        with np.errstate(over="ignore"):
            return values.reshape(old.shape).astype(old.dtype)

    def _constant(self, offset: Offset, one: Contraction, weight: Floats, moments: Moments) -> Floats:
        """What the offset must be for the mean of the output to be that of the targets."""
        missing: Floats = (moments.target() - np.einsum("br,bro->bo", moments.mean(), weight)).reshape(-1)
        old = self.anatomy.pieces.constant(offset.name).reshape(-1).astype(np.float64)
        return missing if offset.own else np.asarray(old + offset.sign * missing)


def _rescaling(weight: Floats, moments: Moments, *, centred: bool) -> Floats:
    """Per output channel what gives it the variance of its target, (blocks, outputs); 1 where one has none."""
    now = np.sum(weight * (moments.covariance(centred=centred) @ weight), axis=1)
    wanted = moments.variance(centred=centred)
    varies = (now > 0) & (wanted > 0)
    return np.sqrt(np.where(varies, wanted, 1.0) / np.where(varies, now, 1.0))


def _inverse(scale: Floats) -> Floats:
    """1 / scale; 0 where that is out of all proportion."""
    faint = np.abs(scale) <= FAINT * np.abs(scale).max(initial=0.0)
    return np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale)).astype(np.float32)
