"""What can be pruned in a model, what cannot and why, and what it costs: `onnxprune inspect`."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune import gates
from onnxprune import model as files
from onnxprune.advice import advice
from onnxprune.calibration import Calibration
from onnxprune.cost import CostModel
from onnxprune.garbage import uncollected
from onnxprune.groups import Groups, Member, find, layer_name
from onnxprune.labels import Labels
from onnxprune.ops import Node, Value
from onnxprune.reading import operand
from onnxprune.weights import is_weight, stored
from onnxprune.widths import Measured, Width, measure
from onnxprune.wiring import fixed_values, layers_of


@dataclass(frozen=True)
class GroupFacts:
    """One channel group; shares are of the parameters and MACs that it has a part in."""

    name: str
    size: int
    members: tuple[Member, ...]
    prunable: bool
    frozen_because: str | None
    macs_share: float
    params_share: float
    made_by: tuple[str, ...] = ()
    """Layers with weights that make these channels, in graph order."""
    read_by: tuple[str, ...] = ()
    """Layers that sum over these channels."""
    advice: str | None = None
    """What to do about it where it is frozen."""
    sensitivity: tuple[Width, ...] = ()
    """Its widths from all channels down, where they were measured."""


@dataclass(frozen=True)
class Lock:
    """A reason for which weights keep their channels, and the share of the parameters it holds."""

    because: str
    op: str
    params_share: float
    advice: str


@dataclass(frozen=True)
class Part:
    """What all prunable groups together come to: channels, and shares of the whole model."""

    channels: int
    macs: float
    params: float


@dataclass(frozen=True)
class Inspection:
    """What a model costs, which channel groups it has, and what keeps the others from being pruned."""

    model: str
    macs: int
    """Multiply-accumulates for one sample."""
    params: int
    bytes: int
    groups: tuple[GroupFacts, ...]
    frozen: tuple[Lock, ...]
    prunable: Part
    """What the groups that can be pruned have a part in."""
    at_half: Part
    """What is left when each of them keeps half of its channels."""
    measured: Measured | None = None
    """On what the sensitivity of the groups was measured."""

    def to_json(self) -> dict[str, Any]:
        """Infinite discrepancies, which JSON has no number for, are null."""
        document = asdict(self)
        for width in (width for group in document["groups"] for width in group["sensitivity"]):
            width["discrepancy"] = width["discrepancy"] if isfinite(width["discrepancy"]) else None
        return document


@uncollected()
def inspect(
    model: str | Path | onnx.ModelProto, *, sensitivity: Calibration | None = None, seed: int = 0
) -> Inspection:
    """Channel groups of a model with their share of MACs and parameters, and what is frozen by which op.

    `sensitivity`: inputs, drawn by `seed`, to measure on how far the outputs move when one group alone is narrowed and
    the layers that read it make up for that. A gated model is seen without its gates.
    Raises ModelError as `onnxprune.model.load`; DataError where the inputs do not fit the model.
    """
    loaded = files.load(model)
    size = loaded.path.stat().st_size if loaded.path else files.to_proto(loaded).ByteSize()
    gates.strip(loaded)
    parts = files.export(loaded) if sensitivity is not None else None
    groups = find(loaded)
    costs = CostModel(groups)
    shares = {by: costs.shares(by) for by in ("macs", "params")}
    made_by, read_by = _layers(groups)
    widths: dict[str, tuple[Width, ...]] = {}
    measured = None
    if parts is not None and sensitivity is not None and groups.groups:
        widths, measured = measure(parts, sensitivity, seed, loaded.where)
    facts = []
    owned = list(zip(costs.parts("macs").tolist(), costs.parts("params").tolist(), strict=True))
    for k, g in enumerate(groups):
        layers = tuple(made_by[k]), tuple(read_by[k])
        told = widths.get(g.name, ())
        facts.append(GroupFacts(g.name, g.size, g.members, True, None, *owned[k], *layers, sensitivity=told))
    facts += _frozen_groups(groups, shares)
    return Inspection(
        str(loaded.path or loaded.graph.name),
        round(costs.total["macs"]),
        round(costs.total["params"]),
        size,
        tuple(facts),
        tuple(_locks(groups)),
        Part(sum(costs.sizes), *(1 - _left(costs, by, 0.0) for by in shares)),
        Part(sum(n - n // 2 for n in costs.sizes), *(_left(costs, by, 0.5) for by in shares)),
        measured,
    )


def _left(costs: CostModel, by: str, part: float) -> float:
    """The share of the cost that is left when each group keeps this part of its channels."""
    if not costs.total[by]:
        return 1.0
    return float(costs.fraction(by, [n * part for n in costs.sizes]))


def _layers(groups: Groups) -> tuple[list[dict[str, None]], list[dict[str, None]]]:
    """Per group the layers that make its channels, and those that sum over them, in graph order."""
    layers = layers_of(groups, fixed_values(groups))
    made: list[dict[str, None]] = [{} for _ in groups]
    read: list[dict[str, None]] = [{} for _ in groups]
    for number, (node, links) in enumerate(zip(groups.nodes, groups.links, strict=True)):
        summed = [groups.place(number, at) for at in links.summed] if links else []
        on_outputs = [labels for v in node.outputs if v for labels in groups.labels[v.name]]
        on_weights = (
            [labels for w in layers[number].weights for labels in groups.labels[w.name]]
            if number in layers
            else []
        )
        makes = _groups_on(groups, on_outputs) & _groups_on(groups, on_weights) if on_weights else set()
        for found, lying in ((made, makes), (read, _groups_on(groups, summed))):
            for group in lying:
                found[group][layer_name(node.raw)] = None
    return made, read


def _groups_on(groups: Groups, axes: Iterable[Labels | None]) -> set[int]:
    """The groups that lie on some of these axes."""
    atoms = [np.unique(groups.atoms.of[labels]) for labels in axes if labels is not None]
    if not atoms:
        return set()
    together = np.concatenate(atoms)
    found = set(groups.group_of[together].tolist())
    if groups.atoms.derived:
        found |= {
            int(groups.group_of[s])
            for atom in together.tolist()
            if atom in groups.atoms.derived
            for s in groups.deciding(atom)
        }
    return found - {-1}


def _claimed_weight_axes(groups: Groups) -> Iterator[tuple[Member, np.ndarray]]:
    """Axes of weights that some op treats as channels: kernel sizes and the like stay out."""
    for number, links in enumerate(groups.links):
        node = groups.nodes[number]
        if links is None:  # no rule: all of its weights are locked
            yield from _weight_axes(groups, node)
            continue
        whole = {fact.at for fact in links.frozen}
        for at in links.mentioned() - whole:
            value = operand(node, at)
            labels = groups.place(number, at)
            weight = _weight(value) if value and node.op != "DequantizeLinear" else None
            if weight is not None and labels is not None:
                yield Member(weight.name, at.axis), groups.atoms.of[labels]


def _weight(value: Value) -> gs.Constant | None:
    """The weight that an operand is, or is dequantised from."""
    tensor = stored(value.raw)
    found = isinstance(tensor, gs.Constant) and len(tensor.shape) > 1 and is_weight(tensor)
    return tensor if found else None


def _weight_axes(groups: Groups, node: Node) -> Iterator[tuple[Member, np.ndarray]]:
    for value in node.inputs:
        weight = _weight(value) if value else None
        if value and weight is not None:
            for axis, labels in enumerate(groups.labels[value.name]):
                if labels is not None:
                    yield Member(weight.name, axis), groups.atoms.of[labels]


def _frozen_groups(groups: Groups, shares: dict[str, np.ndarray]) -> Iterator[GroupFacts]:
    """Frozen channels of weights, together where they lie on the same axes for the same reason."""
    axes: dict[int, list[Member]] = {}
    for member, atoms in _claimed_weight_axes(groups):
        for atom in np.unique(atoms).tolist():
            if groups.atoms.because[atom] >= 0:
                axes.setdefault(atom, []).append(member)
    alike: dict[tuple[tuple[Member, ...], int], list[int]] = {}
    for atom, members in axes.items():
        alike.setdefault((tuple(dict.fromkeys(members)), int(groups.atoms.because[atom])), []).append(atom)
    for (alike_axes, reason), found in alike.items():
        chosen = np.asarray(found)
        name = f"{alike_axes[0].tensor}[{alike_axes[0].axis}]"
        share = {by: min(float(shares[by][chosen].sum()), 1.0) for by in shares}
        because = groups.reasons[reason].text
        yield GroupFacts(
            name,
            len(found),
            alike_axes,
            False,
            because,
            share["macs"],
            share["params"],
            advice=advice(because),
        )


def _locks(groups: Groups) -> Iterator[Lock]:
    """Reasons by the share of the parameters whose weights they hold; one weight may be held by several."""
    total = max(sum(prod(value.raw.shape) for value in _constants(groups)), 1)
    held: dict[tuple[str, str], dict[str, float]] = {}
    for member, atoms in _claimed_weight_axes(groups):
        because = groups.atoms.because[atoms]
        for number, count in zip(*np.unique(because[because >= 0], return_counts=True), strict=True):
            reason = groups.reasons[number]
            weights = held.setdefault((reason.text, reason.op), {})
            weights[member.tensor] = max(weights.get(member.tensor, 0.0), count / len(atoms))
    sizes = {value.name: prod(value.raw.shape) for value in _constants(groups)}
    locks = [
        Lock(text, op, sum(sizes[name] * share for name, share in weights.items()) / total, advice(text))
        for (text, op), weights in held.items()
    ]
    yield from sorted(locks, key=lambda lock: -lock.params_share)


def _constants(groups: Groups) -> list[Value]:
    """Weights and biases."""
    return [v for v in groups.values.values() if isinstance(v.raw, gs.Constant) and is_weight(v.raw)]
