"""What the analysis says of every op, seen in small models of it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import op_cases
from onnx import ModelProto

from onnxprune import errors, model
from onnxprune.labels import Atoms, solve
from onnxprune.ops import RULES, Unknown, Value
from onnxprune.ops.forms import form_of
from onnxprune.prepare import prepare
from onnxprune.reading import Reading

Key = tuple[str, str]
"""Domain and name of an op."""
Axes = tuple[int, frozenset[int], frozenset[int]]
"""Of an operand: its rank, the axes that may lose entries, and those that keep them all."""


@dataclass
class Sighting:
    """What is left free of an op in one model."""

    operands: dict[str, Axes] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    expression: str = ""
    unknown: bool = False
    """Whether the rule gives up."""
    gated: bool = False
    instead: tuple[str, ...] | None = None
    """The ops that stand in its place after preparation; None where it is still there."""

    @property
    def passes(self) -> bool:
        return any(free for _, free, _ in self.operands.values())


def seen(newest: int) -> dict[Key, list[Sighting]]:
    """What is said of each op in every form of it that there is a model of."""
    found: dict[Key, list[Sighting]] = defaultdict(list)
    for forms in [*op_cases.collected(newest), *op_cases.by_hand()]:
        of_form: dict[Key, list[Sighting]] = defaultdict(list)
        for proto in forms:
            for key, sighting in _sightings(proto):
                of_form[key].append(sighting)
        for key, sightings in of_form.items():
            best = max(sightings, key=lambda sighting: (sighting.passes, not sighting.unknown))
            best.reasons = [reason for sighting in sightings for reason in sighting.reasons]
            found[key].append(best)
    return found


def _sightings(proto: ModelProto) -> Iterator[tuple[Key, Sighting]]:
    """Of each op of the model; none where the model is not valid at its opset."""
    try:
        prepared = model.load(proto)
        reading = Reading(prepared, prepare(prepared))
    except errors.ModelError:
        return
    reading.run()
    ends = {number for number, reason in enumerate(reading.reasons) if reason.op in ("input", "output")}
    told = [(labels, reason) for labels, reason in reading.statements.frozen if reason not in ends]
    atoms = solve(replace(reading.statements, frozen=told))
    before = {(node.domain, node.op_type) for node in proto.graph.node}
    after = {(node.domain, node.op) for node in reading.nodes}
    for node in reading.nodes:
        if (key := (node.domain, node.op)) in before:
            sighting = _looked_at(reading, atoms, node.inputs, node.outputs)
            sighting.gated = form_of(node) is not None
            try:
                said = RULES[key](node) if key in RULES else None
                sighting.expression = said if isinstance(said, str) else ""
            except Unknown as reason:
                sighting.unknown = True
                sighting.reasons.append(str(reason))
            yield key, sighting
    for key in sorted(before - after):
        ends_of = [[reading.values[t.name] for t in side] for side in (prepared.graph.inputs, prepared.graph.outputs)]
        sighting = _looked_at(reading, atoms, *ends_of)
        sighting.instead = tuple(sorted({op for domain, op in after - before if not domain} - {"Identity"}))
        yield key, sighting


def _looked_at(
    reading: Reading, atoms: Atoms, inputs: Sequence[Value | None], outputs: Sequence[Value | None]
) -> Sighting:
    sighting = Sighting()
    places = [(f"{side}{k}", v) for side, vs in (("in", inputs), ("out", outputs)) for k, v in enumerate(vs)]
    for place, value in places:
        free, stuck = set(), set()
        for axis, labels in enumerate(reading.labels[value.name] if value else ()):
            if labels is None:
                continue
            because = atoms.because[atoms.of[labels]]
            (free if (because < 0).any() else stuck).add(axis)
            texts = [reading.reasons[number].text for number in sorted(set(because[because >= 0].tolist()))]
            sighting.reasons += [text.split("': ", 1)[-1] for text in texts]
        if value and free | stuck:
            sighting.operands[place] = (len(value.shape or ()), frozenset(free), frozenset(stuck))
    return sighting
