"""Which channel groups of two exports of one network are the same, and which of their channels.

A group is known by the weights that it lies on and where on them: `wiring` tells the weights apart. Its channels are
counted along the first of these weights, whatever order the file has.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.groups import Group, Groups
from onnxprune.labels import Labels
from onnxprune.ops import Value
from onnxprune.weights import blocks, stored
from onnxprune.wiring import Wiring, digest, wiring


@dataclass(eq=False)
class Lying:
    """A group on one axis of one weight: which entries, and by which of its channels they are decided."""

    layer: int
    slot: int
    """Which of the layer's weights."""
    axis: int
    size: int
    entries: Labels
    atoms: Labels

    @cached_property
    def is_plain(self) -> bool:
        """Whether one channel alone decides over each entry."""
        return bool((np.diff(self.entries) > 0).all())

    @cached_property
    def shape(self) -> str:
        """The pattern of the entries, channels numbered as they come up."""
        if not self.is_plain:
            return digest(self.size, self.entries.tobytes())
        rank = {atom: k for k, atom in enumerate(self.order)}
        channels = np.asarray([rank[atom] for atom in self.atoms.tolist()])
        return digest(self.size, self.entries.tobytes(), channels.tobytes())

    @cached_property
    def order(self) -> list[int]:
        """The atoms as they come up."""
        return list(dict.fromkeys(self.atoms.tolist()))


@dataclass(frozen=True, eq=False)
class Identity:
    """What of a group does not depend on the file."""

    key: str
    """Equal for groups that stand alike in alike networks."""
    path: str
    """Equal for groups to which alike networks lead."""
    weights: dict[str, int]
    """Shapes of the weights that the group lies on, and how many there are of each."""
    order: Labels
    """The group's channels in the order in which they come on its first weight."""
    content: tuple[Value, ...] = field(repr=False)
    """These weights; constants that the group lies on where it lies on none."""

    def norms(self) -> list[float]:
        """Of the weights: they tell groups apart that stand alike."""
        return sorted(norm for value in self.content if (norm := _norm(value)) is not None)


@dataclass(frozen=True, eq=False)
class Structure:
    """A network as every export of it has it."""

    key: str
    groups: dict[str, Identity]
    """By the names of this file; groups that the check froze as well."""


def structure(groups: Groups) -> Structure:
    """What of a model and its channel groups is the same in every export of it."""
    wires = wiring(groups)
    every = (*groups.groups, *groups.frozen_by_check)
    owner = np.full(groups.atoms.count, -1, dtype=np.int64)
    for number, group in enumerate(every):
        owner[group.atoms] = number
    lying: list[list[Lying]] = [[] for _ in every]
    for number, on in _all_lying(groups, wires, owner):
        lying[number].append(on)
    position = np.full(groups.atoms.count, -1, dtype=np.int64)
    known = {
        group.name: _identity(groups, wires, group, on, position)
        for group, on in zip(every, lying, strict=True)
    }
    return Structure(digest(*sorted(wires.keys.values())), known)


def _all_lying(groups: Groups, wires: Wiring, owner: Labels) -> Iterator[tuple[int, Lying]]:
    """Every group, by its number, on every axis of every weight."""
    derived = np.zeros(groups.atoms.count, dtype=bool)
    derived[list(groups.atoms.derived)] = True
    for number, layer in wires.layers.items():
        for slot, weight in enumerate(layer.weights):
            for axis, labels in enumerate(groups.labels.get(weight.name, ())):
                if labels is None:
                    continue
                atoms = groups.atoms.of[labels]
                entries = np.arange(len(atoms))
                if derived[atoms].any():
                    entries, atoms = _deciding(groups, atoms)
                owners = owner[atoms]
                for group in np.unique(owners[owners >= 0]).tolist():
                    here = owners == group
                    yield group, Lying(number, slot, axis, len(labels), entries[here], atoms[here])


def _deciding(groups: Groups, atoms: Labels) -> tuple[Labels, Labels]:
    """Pairs of an entry and an atom that decides over it, by entry; as the rules have it, the check's say apart."""
    found: dict[tuple[int, int], None] = {}
    pending = list(enumerate(atoms.tolist()))
    while pending:
        entry, atom = pending.pop()
        sources = groups.atoms.derived.get(atom)
        if sources is None:
            found[entry, atom] = None
        else:
            pending += [(entry, source) for source in sources]
    pairs = np.asarray(sorted(found), dtype=np.int64)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def _identity(groups: Groups, wires: Wiring, group: Group, lying: list[Lying], position: Labels) -> Identity:
    """`position` is a scratch array, an entry per atom."""
    order = _order(wires, group, lying)
    position[order] = np.arange(group.size)
    facts = [
        digest(wires.keys[on.layer], on.slot, on.size, *_pairs(on.entries, position[on.atoms]))
        for on in lying
    ] or {digest(wires.about(member.tensor), member.axis) for member in group.members}
    least = min((wires.depth[on.layer] for on in lying), default=0)
    path = [wires.paths[on.layer] for on in lying if wires.depth[on.layer] == least]
    constants = tuple(v for member in group.members if (v := groups.values[member.tensor]).is_constant)
    places = np.empty(group.size, dtype=np.int64)
    places[position[group.atoms]] = np.arange(group.size)
    return Identity(
        digest(group.size, *sorted(facts)),
        digest(group.size, *sorted(path)),
        dict(sorted(Counter(wires.layers[on.layer].shapes[on.slot] for on in lying).items())),
        places,
        tuple({(on.layer, on.slot): _weight(wires, on) for on in lying}.values()) or constants,
    )


def _order(wires: Wiring, group: Group, lying: list[Lying]) -> Labels:
    """The group's atoms as they come on the first weight that has them all, and that no other one stands like."""
    alike: dict[tuple[bool, str], list[Lying]] = {}
    for on in lying:
        alike.setdefault((not on.is_plain, digest(wires.keys[on.layer], on.slot, on.shape)), []).append(on)
    ranked = [alike[rank] for rank in sorted(alike)]
    whole = [same for same in ranked if len(same[0].order) == group.size]
    clear = [same for same in whole if all(on.order == same[0].order for on in same)]
    first = (clear or [sorted(same, key=lambda on: _norm(_weight(wires, on)) or 0.0) for same in whole])[:1]
    orders = [on.order for same in first or ranked for on in same]
    return np.asarray(list(dict.fromkeys(chain(*orders, group.atoms.tolist()))), dtype=np.int64)


def _weight(wires: Wiring, on: Lying) -> Value:
    return wires.layers[on.layer].weights[on.slot]


def _norm(weight: Value) -> float | None:
    """The same whichever way the weight is laid out."""
    tensor = stored(weight.raw)
    parts = blocks(tensor) if isinstance(tensor, gs.Constant) else None
    if parts is None:
        return None
    return float(f"{sum(float(np.square(part.astype(np.float64)).sum()) for part in parts) ** 0.5:.8g}")


def _pairs(entries: Labels, channels: Labels) -> tuple[bytes, bytes]:
    order = np.lexsort((channels, entries))
    return entries[order].tobytes(), channels[order].tobytes()
