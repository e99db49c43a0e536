"""From the rules of all nodes to channel groups: what can be pruned, and what not and why."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from types import EllipsisType

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.axes import At, AxesError, Frozen, Links, Place, Shape, Virtual, bind
from onnxprune.labels import Atoms, GridLabels, Labels, Statements, solve
from onnxprune.model import Model
from onnxprune.ops import RULES, Node, Unknown, Value
from onnxprune.prepare import prepare
from onnxprune.shapes import Shapes

LONGEST = 1 << 22
"""Axes of more entries get no labels; no real channel axis is that long."""


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


@dataclass(frozen=True)
class Reason:
    """Why something is frozen, and the op it is due to."""

    text: str
    op: str


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
        return (
            self.labels[value.name][place.axis] if value is not None and value.name in self.labels else None
        )

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
            gone[atom] = gone[list(follows)].any()
        return gone

    def deciding(self, atom: int) -> list[int]:
        """The free atoms that decide over this one, ascending; none where it stays."""
        if self.atoms.because[atom] >= 0:
            return []
        follows = self.atoms.derived.get(atom)
        return [atom] if follows is None else sorted({s for f in follows for s in self.deciding(f)})


def operand(node: Node, at: At) -> Value | None:
    """The value behind `in0`, `out1`, ..."""
    side, number = (
        (node.inputs, int(at.operand[2:])) if at.operand[0] == "i" else (node.outputs, int(at.operand[3:]))
    )
    return side[number] if number < len(side) else None


def find(model: Model, also_frozen: Mapping[str, str] | None = None) -> Groups:
    """Prepares `model` in place and finds its channel groups.

    `also_frozen`: groups (by name) that must stay whole, with the reason. Raises ModelError where the shapes of the
    model contradict each other; never on an unknown op, which freezes what it touches.
    """
    shapes = prepare(model)
    builder = _Builder(model, shapes)
    builder.run()
    while True:
        groups = Groups(
            model,
            shapes,
            builder.nodes,
            builder.links,
            builder.labels,
            builder.virtual,
            builder.values,
            solve(builder.statements),
            builder.reasons,
        )
        groups.groups = _collect(groups)
        emptied = list(_may_be_emptied(groups))
        if not emptied:
            break
        for member, labels in emptied:
            text = f"'{member.tensor}' holds only a part of these entries and could be left with none"
            builder.freeze(labels, text, "part of a grid")
    _freeze(groups, also_frozen or {})
    return groups


def _may_be_emptied(groups: Groups) -> Iterator[tuple[Member, Labels]]:
    """Axes of which no entry is sure to stay. Every group keeps a channel, and lies with all of its channels on each of
    its axes; but an axis of derived atoms may hold only some of the combinations that its factors can leave.
    """
    for member, labels in _places(groups) if groups.atoms.derived else ():
        atoms = np.unique(groups.atoms.of[labels])
        if member is None or (groups.atoms.because[atoms] >= 0).any() or (groups.group_of[atoms] >= 0).any():
            continue
        combinations = Counter(
            tuple(sorted(int(groups.group_of[s]) for s in sources))
            for sources in {tuple(groups.deciding(atom)) for atom in atoms.tolist()}
        )
        if not any(count == prod(groups.groups[g].size for g in key) for key, count in combinations.items()):
            yield member, labels


def _freeze(groups: Groups, also_frozen: Mapping[str, str]) -> None:
    groups.frozen_by_check = tuple(group for group in groups.groups if group.name in also_frozen)
    groups.groups = tuple(group for group in groups.groups if group.name not in also_frozen)
    for group in groups.frozen_by_check:
        groups.reasons.append(Reason(also_frozen[group.name], "onnxprune"))
        groups.atoms.because[group.atoms] = len(groups.reasons) - 1


def _shape(value: Value | None) -> Shape | EllipsisType | None:
    """As `bind` wants it: None for an absent operand, `...` where the rank is not known."""
    if value is None:
        return None
    return ... if value.shape is None else value.shape


@dataclass
class _Builder:
    model: Model
    shapes: Shapes
    nodes: list[Node] = field(default_factory=list)
    links: list[Links | None] = field(default_factory=list)
    labels: dict[str, list[Labels | None]] = field(default_factory=dict)
    virtual: dict[tuple[int, str], Labels] = field(default_factory=dict)
    statements: Statements = field(default_factory=Statements)
    reasons: list[Reason] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def run(self) -> None:
        graph = self.model.graph
        for tensor in graph.inputs:
            self._freeze_value(self._value(tensor), f"'{tensor.name}' is an input of the model", "input")
        for tensor in graph.outputs:
            self._freeze_value(self._value(tensor), f"'{tensor.name}' is an output of the model", "output")
        for raw in graph.nodes:
            node = self._node(raw)
            self.nodes.append(node)
            self.links.append(self._links(node))
            self._state(len(self.nodes) - 1)

    def _value(self, tensor: gs.Tensor) -> Value | None:
        if not tensor.name:
            return None
        if tensor.name not in self.values:
            value = Value(tensor.name, self.shapes.sizes.get(tensor.name), tensor)
            self.values[tensor.name] = value
            self.labels[tensor.name] = [
                self.statements.fresh(size) if size is not None and 1 < size <= LONGEST else None
                for size in value.shape or ()
            ]
        return self.values[tensor.name]

    def _node(self, raw: gs.Node) -> Node:
        inputs = tuple(self._value(tensor) for tensor in raw.inputs)
        outputs = tuple(self._value(tensor) for tensor in raw.outputs)
        return Node(raw.op, raw.name, self.model.graph.opset, inputs, outputs, raw, self.model.graph)

    def _because(self, text: str, op: str) -> int:
        self.reasons.append(Reason(text, op))
        return len(self.reasons) - 1

    def freeze(self, labels: Labels, text: str, op: str) -> None:
        self.statements.frozen.append((labels, self._because(text, op)))

    def _freeze_value(self, value: Value | None, text: str, op: str) -> None:
        found = [labels for labels in self.labels[value.name] if labels is not None] if value else []
        if found:
            reason = self._because(text, op)
            self.statements.frozen += [(labels, reason) for labels in found]

    def _links(self, node: Node) -> Links | None:
        """What the node's rule says; None and everything frozen where there is none or it does not apply."""
        domain = "" if node.raw.domain in (None, "ai.onnx") else node.raw.domain
        rule = RULES.get((domain, node.op))
        if rule is None:
            self._freeze_node(node, "has no axis rule")
            return None
        try:
            said = rule(node)
            if isinstance(said, Links):
                return said
            return bind(said, *([_shape(value) for value in side] for side in (node.inputs, node.outputs)))
        except Unknown as reason:
            self._freeze_node(node, str(reason))
        except (AxesError, IndexError, KeyError, TypeError, ValueError) as reason:
            self._freeze_node(node, f"does not fit its axis rule ({reason})")
        return None

    def _freeze_node(self, node: Node, text: str) -> None:
        touched = [*node.inputs, *node.outputs]
        for attribute in node.raw.attrs.values():
            if isinstance(attribute, gs.Graph):
                touched += [self.values.get(name) for name in attribute.tensors()]
                touched += [
                    self.values.get(n) for g in attribute.subgraphs(recursive=True) for n in g.tensors()
                ]
        for value in touched:
            self._freeze_value(value, f"{node.op} '{node.name}': {text}", node.op)

    def _state(self, number: int) -> None:
        """Translates the node's statements into labels."""
        links, node = self.links[number], self.nodes[number]
        if links is None:
            return
        self._freeze_unmentioned(node, links)
        for fact in links.frozen:
            labels = self._labels(number, fact.at)
            if labels is not None:
                chosen = labels if fact.index is None else labels[list(fact.index)]
                self.statements.frozen.append((chosen, self._because(self._text(node, fact), node.op)))
        for same in links.same:
            a, b = self._labels(number, same.a), self._labels(number, same.b)
            if a is not None and b is not None:
                a = a if same.a_index is None else a[list(same.a_index)]
                b = b if same.b_index is None else b[list(same.b_index)]
                self.statements.equal.append((a, b))
            else:
                for labels in (a, b):
                    if labels is not None:
                        reason = self._because(
                            f"{node.op} '{node.name}': meets an axis of one entry", node.op
                        )
                        self.statements.frozen.append((labels, reason))
        for grid in links.grids:
            whole = self._labels(number, grid.whole)
            factors = [self._labels(number, place) for place in grid.factors]
            reason = self._because(f"{node.op} '{node.name}': groups these entries in another way", node.op)
            if whole is None or any(f is None for f in factors):
                known = [labels for labels in (whole, *factors) if labels is not None]
                self.statements.frozen += [(labels, reason) for labels in known]
                continue
            kinds = tuple(f for f in factors if f is not None)
            shaped = whole.reshape([len(f) for f in kinds])
            self.statements.grids.append(GridLabels(shaped, kinds, reason))

    def _text(self, node: Node, fact: Frozen) -> str:
        return f"{node.op} '{node.name}': {fact.because}"

    def _labels(self, number: int, place: Place) -> Labels | None:
        if isinstance(place, Virtual):
            if place.size <= 1:
                return None
            key = (number, place.name)
            if key not in self.virtual:
                self.virtual[key] = self.statements.fresh(place.size)
            return self.virtual[key]
        value = operand(self.nodes[number], place)
        return self.labels[value.name][place.axis] if value is not None and self.labels[value.name] else None

    def _freeze_unmentioned(self, node: Node, links: Links) -> None:
        """An axis is frozen unless a rule claims it."""
        mentioned = links.mentioned()
        for side, values in (("in", node.inputs), ("out", node.outputs)):
            for number, value in enumerate(values):
                for axis, labels in enumerate(self.labels[value.name] if value else ()):
                    if labels is not None and At(f"{side}{number}", axis) not in mentioned:
                        reason = self._because(
                            f"{node.op} '{node.name}': its rule leaves this axis out", node.op
                        )
                        self.statements.frozen.append((labels, reason))


def _collect(groups: Groups) -> tuple[Group, ...]:
    """Atoms that lie on the same axes, equally often on each, form a group."""
    atoms = groups.atoms
    places = list(_places(groups))
    signature = np.zeros(atoms.count, dtype=np.uint64)
    first = np.full(atoms.count, np.iinfo(np.int64).max, dtype=np.int64)
    generator = np.random.default_rng(0)
    keys = generator.integers(1, 2**63, size=(len(places), 2), dtype=np.uint64)
    for number, (_, labels) in enumerate(places):
        found, times = np.unique(atoms.of[labels], return_counts=True)
        signature[found] += keys[number, 0] * (keys[number, 1] + times.astype(np.uint64))
        np.minimum.at(first, atoms.of[labels], labels)
    free = atoms.because < 0
    free[list(atoms.derived)] = False
    chosen = np.flatnonzero(free)
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    by_signature: dict[int, list[int]] = {}
    for atom in chosen.tolist():
        by_signature.setdefault(int(signature[atom]), []).append(atom)
    members = _members(groups, places)
    tensors = groups.model.graph.tensors()
    taken: set[str] = set()
    found_groups = []
    for group_atoms in by_signature.values():
        axes = tuple(dict.fromkeys(members.get(group_atoms[0], ())))
        name = _unique(_name(tensors, axes), taken)
        found_groups.append(Group(name, np.asarray(group_atoms, dtype=np.int64), axes))
    return tuple(found_groups)


def _places(groups: Groups) -> Iterator[tuple[Member | None, Labels]]:
    """Every labelled axis: of values in graph order, then of factors."""
    for value, axes in groups.labels.items():
        for axis, labels in enumerate(axes):
            if labels is not None:
                yield Member(value, axis), labels
    for labels in groups.virtual.values():
        yield None, labels


def _members(groups: Groups, places: list[tuple[Member | None, Labels]]) -> dict[int, list[Member]]:
    """The axes each free atom lies on, those included that it takes part in as a factor."""
    found: dict[int, list[Member]] = {}
    for member, labels in places:
        if member is None:
            continue
        for atom in np.unique(groups.atoms.of[labels]).tolist():
            for source in groups.deciding(atom):
                found.setdefault(source, []).append(member)
    return found


def _name(tensors: dict[str, gs.Tensor], members: tuple[Member, ...]) -> str:
    """The weight that makes these channels, as the exporter called it; else the node that does; else the tensor."""
    for member in members:
        producers = tensors[member.tensor].inputs
        if producers:
            weights = [t for t in producers[0].inputs[1:] if isinstance(t, gs.Constant) and len(t.shape) > 1]
            if weights and not _made_up(weights[0].name):
                return str(weights[0].name.removesuffix(".weight"))
            return str(producers[0].name)
    return members[0].tensor if members else "channels"


def _made_up(name: str) -> bool:
    """Names that exporters number through say nothing."""
    return name.startswith(("onnx::", "val_")) or name.isdigit()


def _unique(name: str, taken: set[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    taken.add(candidate)
    return candidate
