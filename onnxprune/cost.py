"""MACs, parameters and channels, of a model or of what a plan leaves of it.

costs = CostModel(groups)
costs.fraction("macs", [size // 2 for size in costs.sizes])
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import scopes
from onnxprune.groups import Groups
from onnxprune.labels import Labels
from onnxprune.links import Place, Virtual
from onnxprune.reading import operand
from onnxprune.weights import is_weight

BY = ("channels", "params", "macs")
LATENCY = "latency"
"""What no count says: `latency.Timed` does."""

Form = tuple[tuple[float, tuple[int, ...]], ...]
"""How many entries an axis has: the sum of coefficient * product of the open fractions of these groups."""
Term = tuple[float, tuple[Form, ...]]
"""A number times the lengths of some axes."""


class CostModel:
    """What a model costs as a function of how many channels of each group are open.

    Only + and * are applied to `open`, so it may hold ints, floats or torch scalars, and gradients reach both sides
    of every op. Exact for every plan, except where an op sees a part of a grid (heads x head dims): there it is the
    expected value; `exact` counts those too.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.names = tuple(group.name for group in groups)
        self.sizes = tuple(group.size for group in groups)
        self._forms: dict[bytes, Form] = {}
        self._axes: dict[str, list[tuple[float, list[Labels]]]] = {
            "params": list(_weights(groups)),
            "macs": list(_products(groups)),
        }
        self._terms: dict[str, list[Term]] = {
            by: self._as_terms(products) for by, products in self._axes.items()
        }
        self._channels = _channels(groups)
        self._terms["channels"] = [(1.0, (self._counted(self._channels),))]
        self.total = {by: float(self.count(by, self.sizes)) for by in BY}

    @cached_property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Sets of groups that decide together over channels, such as heads and the dims of every head."""
        return tuple(deciding for _, deciding in self._counted(self._channels) if len(deciding) > 1)

    def count(self, by: str, open: Sequence[Any]) -> Any:  # noqa: A002 - the field's word for it
        """Channels, parameters or MACs (of one sample) with `open[g]` channels of group g open."""
        return Lengths(self, open).total(self._terms[by])

    def fraction(self, by: str, open: Sequence[Any]) -> Any:  # noqa: A002
        """`count` as a fraction of the whole model's."""
        return self.count(by, open) * (1.0 / (self.total[by] or 1.0))

    def unit_costs(self, by: str, open: Sequence[Any]) -> np.ndarray:  # noqa: A002
        """Per group, what one more closed channel saves, shape (groups,), in units of `count`."""
        fractions = [float(n) / size for n, size in zip(open, self.sizes, strict=True)]
        slopes = np.zeros(len(self.sizes))
        for factor, forms in self._terms[by]:
            lengths = [sum(c * prod(fractions[g] for g in groups) for c, groups in form) for form in forms]
            for position, form in enumerate(forms):
                others = factor * prod(lengths[:position] + lengths[position + 1 :])
                for c, groups in form:
                    for g in groups:
                        rest = prod(fractions[h] for h in groups if h != g)
                        slopes[g] += others * c * rest
        return np.asarray(slopes / np.asarray(self.sizes or (1,))[: len(slopes)])

    def parts(self, by: str) -> np.ndarray:
        """Per group, the share of the cost that it has a part in, shape (groups,): what goes when all of it does."""
        lost = np.zeros(len(self.sizes))
        for factor, forms in self._terms[by]:
            whole = factor * prod(sum(c for c, _ in form) for form in forms)
            for g in {g for form in forms for _, groups in form for g in groups}:
                left = prod(sum(c for c, groups in form if g not in groups) for form in forms)
                lost[g] += whole - factor * left
        return np.asarray(lost / max(self.total[by], 1.0))

    def exact(self, removed: np.ndarray) -> dict[str, float]:
        """The costs that are left when these atoms are gone, as fractions of the whole."""
        open_atoms = ~removed
        atom_of = self.groups.atoms.of
        left = {
            by: sum(
                factor * prod(int(open_atoms[atom_of[labels]].sum()) for labels in axes)
                for factor, axes in products
            )
            for by, products in self._axes.items()
        }
        left["channels"] = float(open_atoms[self._channels].sum())
        return {by: left[by] / self.total[by] if self.total[by] else 1.0 for by in BY}

    def shares(self, by: str) -> np.ndarray:
        """Per atom, the share of the MACs or parameters it has a part in, as in `count`'s slope at the whole model."""
        spread = np.zeros(self.groups.atoms.count)
        for factor, axes in self._axes[by]:
            cost = factor * prod(len(labels) for labels in axes)
            for labels in axes:
                np.add.at(spread, self.groups.atoms.of[labels], cost / len(labels))
        for atom, follows in reversed(self.groups.atoms.derived.items()):
            spread[list(follows)] += spread[atom]
        return np.minimum(spread / max(self.total[by], 1.0), 1.0)

    def _as_terms(self, products: Iterable[tuple[float, list[Labels]]]) -> list[Term]:
        return [(factor, tuple(self._form(labels) for labels in axes)) for factor, axes in products]

    def _form(self, labels: Labels) -> Form:
        """Counts the labels of an axis by what decides over them."""
        atoms = self.groups.atoms.of[labels]
        key = atoms.tobytes()
        if key not in self._forms:
            self._forms[key] = self._counted(atoms)
        return self._forms[key]

    def _counted(self, atoms: Labels) -> Form:
        """How many of these atoms each set of groups decides over."""
        numbers = self.groups.group_of[atoms]
        found, times = np.unique(numbers, return_counts=True)
        counts: dict[tuple[int, ...], float]
        counts = {(g,): float(n) for g, n in zip(found.tolist(), times.tolist(), strict=True) if g >= 0}
        others, times = np.unique(atoms[numbers < 0], return_counts=True)
        for atom, n in zip(others.tolist(), times.tolist(), strict=True):
            deciding = self._deciding.get(atom, ())
            counts[deciding] = counts.get(deciding, 0.0) + n
        return tuple((n, deciding) for deciding, n in counts.items())

    @cached_property
    def _deciding(self) -> dict[int, tuple[int, ...]]:
        """Per derived atom the groups that decide over it."""
        of = self.groups.group_of
        return {
            atom: tuple(sorted({int(of[source]) for source in self.groups.deciding(atom)}))
            for atom in self.groups.atoms.derived
        }


class Lengths:
    """How long axes are with so many channels open; each form is counted once."""

    def __init__(self, costs: CostModel, open: Sequence[Any]) -> None:  # noqa: A002
        self.fractions = [n * (1.0 / size) for n, size in zip(open, costs.sizes, strict=True)]
        self.known: dict[Form, Any] = {}

    def total(self, terms: Iterable[Term]) -> Any:
        """The sum of these terms."""
        total: Any = 0.0
        for factor, forms in terms:
            product: Any = factor
            for form in forms:
                if form not in self.known:
                    self.known[form] = sum(c * prod(self.fractions[g] for g in groups) for c, groups in form)
                product = product * self.known[form]
            total = total + product
        return total


def _channels(groups: Groups) -> Labels:
    """The atoms that count as channels: those of a grid in place of its factors, such as every dim of every head."""
    decided = {sources: atom for atom in groups.atoms.derived if (sources := tuple(groups.deciding(atom)))}
    factors = {int(groups.group_of[source]) for sources in decided for source in sources}
    plain = [group.atoms for number, group in enumerate(groups) if number not in factors]
    return np.concatenate([np.asarray(list(decided.values()), dtype=np.int64), *plain])


def _weights(groups: Groups) -> Any:
    """Every weight as (entries on unlabelled axes, labelled axes)."""
    for tensor in scopes.tensors(groups.model.graph).values():
        if isinstance(tensor, gs.Constant) and is_weight(tensor):
            axes = groups.labels.get(tensor.name, [None] * len(tensor.shape))
            plain = prod(size for size, labels in zip(tensor.shape, axes, strict=True) if labels is None)
            yield float(plain), [labels for labels in axes if labels is not None]


def _products(groups: Groups) -> Iterator[tuple[float, list[Labels]]]:
    for number in range(len(groups.nodes)):
        yield from multiplied(groups, number)


def multiplied(groups: Groups, number: int) -> Iterator[tuple[float, list[Labels]]]:
    """What an op multiplies and adds, as (its unlabelled sizes, its labelled axes), of one sample."""
    links = groups.links[number]
    if links is None or links.macs is None:
        return
    for places in (links.macs, *links.more_macs):
        factor, axes = 1.0 / groups.shapes.batch, []
        for place in places:
            labels = None if isinstance(place, int) else groups.place(number, place)
            if labels is not None:
                axes.append(labels)
            else:
                factor *= _size(groups, number, place)
        yield factor, axes


def _size(groups: Groups, number: int, place: Place | int) -> int:
    """The size of an axis without labels, at the first binding."""
    if isinstance(place, int):
        return place
    if isinstance(place, Virtual):
        return max(place.size, 1)
    value = operand(groups.nodes[number], place)
    return value.sizes[place.axis][0] if value and value.sizes else 1
