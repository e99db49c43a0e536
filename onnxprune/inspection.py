"""What can be pruned in a model, what cannot and why, and what it costs: `onnxprune inspect`."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune import gates
from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.groups import Groups, Member, find
from onnxprune.ops import Node, Value
from onnxprune.reading import operand
from onnxprune.weights import is_weight, stored


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


@dataclass(frozen=True)
class Lock:
    """A reason for which weights keep their channels, and the share of the parameters it holds."""

    because: str
    op: str
    params_share: float


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(model: str | Path | onnx.ModelProto) -> Inspection:
    """Channel groups of a model with their share of MACs and parameters, and what is frozen by which op.

    A gated model is seen without its gates. Raises ModelError as `onnxprune.model.load`.
    """
    loaded = files.load(model)
    size = loaded.path.stat().st_size if loaded.path else files.to_proto(loaded).ByteSize()
    gates.strip(loaded)
    groups = find(loaded)
    costs = CostModel(groups)
    shares = {by: costs.shares(by) for by in ("macs", "params")}
    facts = [
        GroupFacts(
            g.name, g.size, g.members, True, None, *(float(shares[by][g.atoms].sum()) for by in shares)
        )
        for g in groups
    ]
    facts += _frozen_groups(groups, shares)
    return Inspection(
        str(loaded.path or loaded.graph.name),
        round(costs.total["macs"]),
        round(costs.total["params"]),
        size,
        tuple(facts),
        tuple(_locks(groups)),
    )


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
        share = {by: float(shares[by][chosen].sum()) for by in shares}
        yield GroupFacts(
            name, len(found), alike_axes, False, groups.reasons[reason].text, share["macs"], share["params"]
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
        Lock(text, op, sum(sizes[name] * share for name, share in weights.items()) / total)
        for (text, op), weights in held.items()
    ]
    yield from sorted(locks, key=lambda lock: -lock.params_share)


def _constants(groups: Groups) -> list[Value]:
    """Weights and biases."""
    return [v for v in groups.values.values() if isinstance(v.raw, gs.Constant) and is_weight(v.raw)]
