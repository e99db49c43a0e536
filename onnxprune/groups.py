"""From the rules of all nodes to channel groups: what can be pruned, and what not and why."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import scopes
from onnxprune.labels import Atoms, Labels, solve
from onnxprune.links import Links, Place, Virtual
from onnxprune.model import Model
from onnxprune.ops import Node, Value
from onnxprune.prepare import prepare
from onnxprune.reading import Reading, Reason, operand
from onnxprune.shapes import Shapes
from onnxprune.weights import stored


@dataclass(frozen=True)
class Member:
    """An axis that a group lies on."""

    tensor: str
    axis: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that lie on the same axes; each of them can go, alone, from all of these."""

    name: str
    atoms: Labels
    """The atoms, one per channel, in the order of the channels on the first member."""
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        return len(self.atoms)


@dataclass(eq=False)
class Groups:
    """The prunable groups of a prepared model, and all that is needed to price and carry out a plan."""

    model: Model
    shapes: Shapes
    nodes: list[Node]
    links: list[Links | None]
    labels: dict[str, list[Labels | None]]
    """Per value and axis; None where the axis is dynamic or has one entry."""
    virtual: dict[tuple[int, str], Labels]
    """Labels of factors, by node index and factor name."""
    values: dict[str, Value]
    atoms: Atoms
    reasons: list[Reason]
    groups: tuple[Group, ...] = ()
    frozen_by_check: tuple[Group, ...] = ()
    """Groups that the rules would let go, frozen because the check found them out."""

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def place(self, node: int, place: Place) -> Labels | None:
        """The labels of an axis that node number `node` speaks of."""
        if isinstance(place, Virtual):
            return self.virtual.get((node, place.name))
        value = operand(self.nodes[node], place)
        axes = self.labels.get(value.name) if value is not None else None
        return axes[place.axis] if axes else None  # none at all: of unknown rank

    @cached_property
    def group_of(self) -> Labels:
        """Per atom the number of its group, or -1."""
        found = np.full(self.atoms.count, -1, dtype=np.int64)
        for number, group in enumerate(self.groups):
            found[group.atoms] = number
        return found

    def removed(self, kept: dict[str, np.ndarray]) -> np.ndarray:
        """Per atom whether it goes, for the kept channels of each group (groups not named keep all)."""
        gone = np.zeros(self.atoms.count, dtype=bool)
        for group in self.groups:
            if group.name in kept:
                gone[group.atoms] = True
                gone[group.atoms[kept[group.name]]] = False
        for atom, follows in self.atoms.derived.items():
            gone[atom] = any(gone[f] for f in follows)
        return gone

    def deciding(self, atom: int) -> list[int]:
        """The free atoms that decide over this one, ascending; none where it stays."""
        if self.atoms.because[atom] >= 0:
            return []
        sources = self._sources.get(atom)
        return [atom] if sources is None else sources

    @cached_property
    def _sources(self) -> dict[int, list[int]]:
        """Per derived atom the free atoms that decide over it; factors come before what is derived of them."""
        found: dict[int, list[int]] = {}
        because = self.atoms.because
        for atom, follows in self.atoms.derived.items():
            found[atom] = sorted({s for f in follows if because[f] < 0 for s in found.get(f, [f])})
        return found

    def freeze(self, names: Mapping[str, str]) -> None:
        """Takes these groups out of the game, with the reason."""
        self.frozen_by_check = tuple(group for group in self.groups if group.name in names)
        self.groups = tuple(group for group in self.groups if group.name not in names)
        for group in self.frozen_by_check:
            self.reasons.append(Reason(names[group.name], "onnxprune"))
            self.atoms.because[group.atoms] = len(self.reasons) - 1
        for told in ("group_of", "_sources"):  # before these groups were frozen
            self.__dict__.pop(told, None)


def find(model: Model, also_frozen: Mapping[str, str] | None = None) -> Groups:
    """Prepares `model` in place and finds its channel groups.

    `also_frozen`: groups (by name) that must stay whole, with the reason. Raises ModelError where the shapes of the
    model contradict each other; never on an unknown op, which freezes what it touches.
    """
    shapes = prepare(model)
    reading = Reading(model, shapes)
    reading.run()
    while True:
        groups = Groups(
            model,
            shapes,
            reading.nodes,
            reading.links,
            reading.labels,
            reading.virtual,
            reading.values,
            solve(reading.statements),
            reading.reasons,
        )
        entries = _entries(groups)
        groups.groups = _collect(groups, entries)
        emptied = list(_may_be_emptied(groups, entries))
        if not emptied:
            break
        for member, labels in emptied:
            text = f"'{member.tensor}' holds only a part of these entries and could be left with none"
            reading.freeze(labels, text, "part of a grid")
    groups.freeze(also_frozen or {})
    return groups


def _may_be_emptied(groups: Groups, entries: "_Entries") -> Iterator[tuple[Member, Labels]]:
    """Axes of which no entry is sure to stay. Every group keeps a channel, and lies with all of its channels on each of
    its axes; but an axis of derived atoms may hold only some of the combinations that its factors can leave.
    """
    derived = np.zeros(groups.atoms.count, dtype=bool)
    derived[list(groups.atoms.derived)] = True
    counts = np.bincount(entries.place[derived[entries.atom]], minlength=len(entries.labels))
    sure: dict[bytes, bool] = {}
    for number in np.flatnonzero(counts).tolist():
        member, labels = entries.members[number], entries.labels[number]
        if member is None or counts[number] < len(labels):
            continue
        atoms = groups.atoms.of[labels]
        key = atoms.tobytes()
        if key not in sure:
            sure[key] = _is_never_empty(groups, atoms)
        if not sure[key]:
            yield member, labels


def _is_never_empty(groups: Groups, atoms: Labels) -> bool:
    combinations = Counter(
        tuple(sorted(int(groups.group_of[s]) for s in sources))
        for sources in {tuple(groups.deciding(atom)) for atom in atoms.tolist()}
    )
    return any(count == prod(groups.groups[g].size for g in key) for key, count in combinations.items())


@dataclass(frozen=True, eq=False)
class _Entries:
    """The entries that may go of every labelled axis: of values in graph order, then of factors."""

    members: list[Member | None]
    labels: list[Labels]
    place: Labels
    """Per entry the number of its axis."""
    atom: Labels


def _entries(groups: Groups) -> _Entries:
    members: list[Member | None] = []
    labels: list[Labels] = []
    for value, axes in groups.labels.items():
        for axis, found in enumerate(axes):
            if found is not None:
                members.append(Member(value, axis))
                labels.append(found)
    members += [None] * len(groups.virtual)
    labels += groups.virtual.values()
    place = np.repeat(np.arange(len(labels)), [len(found) for found in labels])
    atom = groups.atoms.of[np.concatenate([*labels, np.empty(0, dtype=np.int64)])]
    free = groups.atoms.because[atom] < 0
    return _Entries(members, labels, place[free], atom[free])


def _collect(groups: Groups, entries: _Entries) -> tuple[Group, ...]:
    """Atoms that lie on the same axes, equally often on each, form a group."""
    atoms = groups.atoms
    keys = np.random.default_rng(0).integers(1, 2**64 - 1, size=len(entries.labels), dtype=np.uint64)
    signature = np.zeros(atoms.count, dtype=np.uint64)
    np.add.at(signature, entries.atom, keys[entries.place])
    first = np.empty(atoms.count, dtype=np.int64)
    first[atoms.of[::-1]] = np.arange(len(atoms.of))[::-1]
    free = atoms.because < 0
    free[list(atoms.derived)] = False
    chosen = np.flatnonzero(free)
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    by_signature: dict[int, list[int]] = {}
    for atom, key in zip(chosen.tolist(), signature[chosen].tolist(), strict=True):
        by_signature.setdefault(key, []).append(atom)
    members = _members(groups, entries, [group_atoms[0] for group_atoms in by_signature.values()])
    tensors = scopes.tensors(groups.model.graph)
    taken: set[str] = set()
    found_groups = []
    for group_atoms in by_signature.values():
        axes = tuple(dict.fromkeys(members[group_atoms[0]]))
        name = _unique(_name(tensors, axes), taken)
        found_groups.append(Group(name, np.asarray(group_atoms, dtype=np.int64), axes))
    return tuple(found_groups)


def _members(groups: Groups, entries: _Entries, wanted: list[int]) -> dict[int, list[Member]]:
    """The axes each of these free atoms lies on, those included that it takes part in as a factor."""
    found: dict[int, list[Member]] = {atom: [] for atom in wanted}
    looked_for = np.zeros(groups.atoms.count, dtype=bool)
    looked_for[wanted] = True
    for atom in groups.atoms.derived:
        looked_for[atom] = any(source in found for source in groups.deciding(atom))
    here = looked_for[entries.atom]
    pairs = zip(entries.place[here].tolist(), entries.atom[here].tolist(), strict=True)
    for place, atom in dict.fromkeys(pairs):
        member = entries.members[place]
        for source in groups.deciding(atom) if member is not None else ():
            if source in found:
                found[source].append(member)
    return found


def _name(tensors: dict[str, gs.Tensor], members: tuple[Member, ...]) -> str:
    """The weight that makes these channels, as the exporter called it; else the node that does; else the tensor."""
    for member in members:
        producers = tensors[member.tensor].inputs
        if producers and not isinstance(stored(tensors[member.tensor]), gs.Constant):
            return layer_name(producers[0])
    return members[0].tensor if members else "channels"


_APPENDED = ("_quantized", "_Transposed", ".weight")
"""To a layer's name, to call its weight: the last by exporters, the first two by onnxruntime's quantiser."""


def layer_name(node: gs.Node) -> str:
    """A node by its weight, as the exporter called it; else by its own name."""
    operands = [stored(tensor) for tensor in node.inputs[1:]]
    weights = [t for t in operands if isinstance(t, gs.Constant) and len(t.shape) > 1]
    if weights and not _made_up(weights[0].name):
        name = str(weights[0].name)
        for suffix in _APPENDED:
            name = name.removesuffix(suffix)
        return name
    return str(node.name)


def _made_up(name: str) -> bool:
    """Names that exporters number through say nothing."""
    return name.startswith(("onnx::", "val_")) or name.isdigit()


def _unique(name: str, taken: set[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    taken.add(candidate)
    return candidate
