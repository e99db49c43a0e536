"""Which BatchNormalizations the channels of a group pass: where one can tell whether a ReLU silences them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxprune import scopes
from onnxprune.groups import Groups


@dataclass(frozen=True)
class Norm:
    """Channels of one group within one BatchNormalization."""

    scale: str
    bias: str
    """Its initializers, each of shape (channels,)."""
    channels: NDArray[np.intp]
    """Which of the group's channels it normalises."""
    entries: NDArray[np.intp]
    """Where in `scale` and `bias` these are."""


def norms(groups: Groups) -> Mapping[str, tuple[Norm, ...]]:
    """Per group all BatchNormalizations on its channels; empty for a group that passes none."""
    found: dict[str, list[Norm]] = {group.name: [] for group in groups}
    names = list(found)
    place = np.full(groups.atoms.count, -1)
    for group in groups:
        place[group.atoms] = np.arange(group.size)
    for graph in scopes.graphs(groups.model.graph):
        for node in graph.nodes:
            operands = node.inputs[1:3]
            if node.op != "BatchNormalization" or not all(isinstance(o, gs.Constant) for o in operands):
                continue
            scale, bias = operands
            labels = groups.labels.get(scale.name, [None])[0]
            if labels is None:
                continue
            atoms = groups.atoms.of[labels]
            for number in np.unique(groups.group_of[atoms]):
                if number < 0:
                    continue
                entries = np.flatnonzero(groups.group_of[atoms] == number)
                found[names[number]].append(Norm(scale.name, bias.name, place[atoms[entries]], entries))
    return {name: tuple(each) for name, each in found.items()}
