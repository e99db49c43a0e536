"""What is known of a model before anything is cut: its contractions, and the moments of what they read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune import gates
from onnxprune import model as files
from onnxprune.apart import Apart
from onnxprune.cost import CostModel
from onnxprune.groups import Group, Groups, find
from onnxprune.recovery.contractions import Contraction, contractions, units
from onnxprune.recovery.discrepancy import Head, heads
from onnxprune.recovery.elimination import Elimination, Layer
from onnxprune.recovery.moments import Moments, damped
from onnxprune.recovery.pieces import Pieces, Values
from onnxprune.recovery.windows import Floats

POSITIONS = 128
"""Output positions of a convolution, or tokens, that are taken of a sample."""
MOST_ROWS = 6144
"""A larger least squares problem is left alone: its matrices take more than 300 MB each."""


@dataclass(eq=False)
class Anatomy:
    """A model opened up: its groups, its gated form in pieces, and its contractions, in graph order."""

    groups: Groups
    costs: CostModel
    pieces: Pieces
    contractions: list[Contraction]
    seed: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    """Of the whole model, by the contraction's name."""
    heads: list[Head] = field(default_factory=list)
    read: int = 0
    """Bytes that all contractions read of one batch, in the whole model."""

    @staticmethod
    def of(parts: Apart, frozen: dict[str, str], seed: int) -> "Anatomy":
        """Of a model without gates; `frozen` as `groups.find` takes it."""
        model = files.load(parts)
        groups = find(model, frozen)
        costs, found = CostModel(groups), contractions(groups)
        gates.insert(groups, {})
        pieces = Pieces(files.export(model), groups.shapes.sizes)
        known = [one for one in found if one.rows <= MOST_ROWS and one.name in pieces.number]
        return Anatomy(groups, costs, pieces, known, seed)

    def input_of(self, one: Contraction, closed: frozenset[str] = frozenset()) -> str:
        """The name of what it reads, in the gated model with these groups closed."""
        return self.pieces.value(self.pieces.nodes[self.pieces.number[one.name]].input[0], closed)

    def draw(self, one: Contraction, batch: int) -> np.random.Generator:
        """Randomness of its own for each op and batch."""
        return np.random.default_rng([self.seed, self.pieces.number[one.name], batch])

    def weight(self, one: Contraction) -> Floats:
        """Its matrix as the model has it."""
        return one.matrix(self.pieces.constant(one.weight))

    def measure(self, batches: Sequence[Values] | Iterator[Values]) -> None:
        """Runs the model once and gathers the moments of what every contraction reads."""
        names = {one.name: self.input_of(one) for one in self.contractions}
        piece = None
        for number, batch in enumerate(batches):
            if piece is None:
                outputs = [*self.pieces.outputs, *names.values()]
                piece = self.pieces.piece(range(len(self.pieces.nodes)), outputs, batch)
            values = piece(batch)
            if not self.heads:
                self.heads = heads([values[self.pieces.value(name)] for name in self.pieces.outputs])
                self.read = sum(values[name].nbytes for name in set(names.values()))
            for one in self.contractions:
                x = values[names[one.name]]
                chosen = one.pick(x.shape, POSITIONS, self.draw(one, number))
                self.moments.setdefault(one.name, Moments()).add(one.patches(x, chosen))

    @cached_property
    def readers(self) -> dict[str, list[tuple[Contraction, list[np.ndarray]]]]:
        """Per group the contractions that sum its channels away alike, and the rows of each channel there."""
        found: dict[str, list[tuple[Contraction, list[np.ndarray]]]] = {g.name: [] for g in self.groups}
        lying = {one.name: self._groups_read(one) for one in self.contractions}
        for group in self.groups:
            for one in self.contractions:
                rows = units(self.groups, one, group.atoms) if group.name in lying[one.name] else None
                if rows is not None:
                    found[group.name].append((one, rows))
        return found

    def _groups_read(self, one: Contraction) -> set[str]:
        numbers = {
            int(self.groups.group_of[source])
            for atom in np.unique(one.atoms[one.atoms >= 0]).tolist()
            for source in self.groups.deciding(atom)
        }
        return {self.groups.groups[n].name for n in numbers if n >= 0}

    def elimination(self, group: Group) -> Elimination:
        """The group's channels at the whole model, ready to be taken away one after the other."""
        layers = []
        for one, rows in self.readers[group.name]:
            moments = self.moments[one.name]
            covariance = moments.covariance(centred=one.offset is not None)
            weight = self.weight(one)
            power = float(np.vdot(weight, np.matmul(covariance, weight)))
            layers.append(Layer.of(damped(covariance, moments.count), weight, rows, 1 / max(power, 1e-12)))
        return Elimination(group.size, layers)

    def moved(self, one: Contraction, weight: Floats) -> Values:
        """The initializers of an op with this matrix in place of its own; its mean output stays, where it can."""
        found = {one.weight: one.weights(weight)}
        if one.offset is not None:
            lost = self.weight(one) - weight
            shift = np.einsum("br,bro->bo", self.moments[one.name].mean(), lost).reshape(-1)
            old = self.pieces.constant(one.offset.name)
            found[one.offset.name] = old + one.offset.sign * shift.reshape(old.shape)
        return found
