"""Values inside the model that the student shall share with the original, matched whatever channels it has lost.

Values with positions are matched by attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928): where a
sample's map, the sum of squares over channels, is large. Values without are matched by similarity-preserving
distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682): which samples of a batch resemble each other. Neither looks at
single channels. Ours are the scales: both losses are sums of squares per sample, from 0 to 4, and their mean is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune import gates
from onnxprune.errors import TrainingError
from onnxprune.groups import Groups
from onnxprune.labels import Labels
from onnxprune.to_torch.operands import DTYPES

SHOWN = 8  # names in an error


@dataclass(frozen=True)
class Feature:
    """A value (n, ...) of the graph. `channels` are the axes that may lose entries, or else that of the channels.

    `deciding` holds, for each of its axes with gates, which of all gates (flat) close each entry, (entries, most):
    one past the last gate is always open.
    """

    name: str
    channels: tuple[int, ...]
    deciding: tuple[tuple[int, Tensor], ...] = ()

    def masked(self, value: Tensor, closed: Tensor) -> Tensor:
        """`value` with every entry at 0 that a gate closes; `closed` is of all gates, and False for one past them."""
        for axis, index in self.deciding:
            shape = [-1 if at == axis else 1 for at in range(value.dim())]
            value = value.masked_fill(closed[index.to(closed.device)].any(1).view(shape), 0)
        return value

    def loss(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Attention transfer where there are several positions, else similarity of the samples."""
        one, other = (self._compared(value) for value in (ours, theirs))
        return (F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(1).mean()

    def _compared(self, value: Tensor) -> Tensor:
        """(n, positions) or (n, n)."""
        positions = value.square().sum(self.channels).reshape(len(value), -1)
        if positions.shape[1] > 1:
            return positions
        flat = value.flatten(1)
        return flat @ flat.T


@dataclass(frozen=True)
class Features:
    """The values that a student is to share with the original, beside its outputs."""

    features: tuple[Feature, ...] = ()

    @staticmethod
    def of(
        patterns: Sequence[str],
        groups: Callable[[], Groups],
        models: Sequence[onnx.ModelProto],
        sizes: Mapping[str, int],
    ) -> "Features":
        """The values of all `models` (the gated one first) whose names fit one of the `patterns`, as of file names.

        `groups` gives the gated model's without its gates, and is called only if there are patterns; `sizes` are the
        numbers of gates by group, in the order of the flat vector of all. Raises TrainingError where a pattern fits
        nothing.
        """
        if not patterns:
            return Features()
        found = groups()
        if {group.name: group.size for group in found} != dict(sizes):
            raise TrainingError(
                "features: the gates are not those of the model's groups: gate the model anew"
            )
        shared = [_made(model) for model in models]
        names = [name for name in shared[0] if all(name in made for made in shared) and _fits(name, found)]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
                raise TrainingError(f"features {pattern!r} fit no value of the model: it has {shown}")
        wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        flat = _flat(found, sizes)
        return Features(tuple(_feature(name, found, flat) for name in wanted))

    @property
    def names(self) -> tuple[str, ...]:
        """What both models are to be loaded `also` with."""
        return tuple(feature.name for feature in self.features)

    def masked(self, values: Sequence[Tensor], w: Tensor) -> tuple[Tensor, ...]:
        """The student's values as they are without its closed channels; needed until these are cut away.

        `w` are the latents of all gates, flat, open where > 0. They learn from what the values lead to, not from here.
        """
        closed = torch.cat([~(w > 0), torch.zeros_like(w[:1], dtype=torch.bool)])
        return tuple(f.masked(value, closed) for f, value in zip(self.features, values, strict=True))

    def loss(self, values: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Of the student's values and the original's, in the order of `names`; the mean over them."""
        paired = zip(self.features, values, wanted, strict=True)
        return torch.stack([feature.loss(ours, theirs) for feature, ours, theirs in paired]).mean()


def _made(model: onnx.ModelProto) -> dict[str, None]:
    """What the graph's own nodes make, in order; gates are none of them."""
    nodes = (node for node in model.graph.node if node.domain != gates.DOMAIN or node.op_type != "Gate")
    return {
        name: None for node in nodes for name in node.output if name and not name.startswith(gates.PREFIX)
    }


def _fits(name: str, groups: Groups) -> bool:
    """Whether it is a value (n, ...) of floats with a known rank, computed from the samples."""
    axes, kind = groups.labels.get(name, []), groups.shapes.types.get(name)
    floating = kind is not None and DTYPES.get(kind, torch.int64).is_floating_point
    batch = axes[0] if axes else None
    whole = batch is None or bool((groups.atoms.because[groups.atoms.of[batch]] >= 0).all())
    return len(axes) > 1 and floating and whole


def _flat(groups: Groups, sizes: Mapping[str, int]) -> Labels:
    """Per atom the number of its gate; one past the last for atoms without."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    flat = np.full(groups.atoms.count, sum(sizes.values()), dtype=np.int64)
    for group in groups:
        flat[group.atoms] = starts[group.name] + np.arange(group.size)
    return flat


def _feature(name: str, groups: Groups, flat: Labels) -> Feature:
    deciding, always = [], sum(group.size for group in groups)
    for axis, labels in enumerate(groups.labels[name]):
        if labels is None:
            continue
        found = [flat[groups.deciding(atom)].tolist() for atom in groups.atoms.of[labels].tolist()]
        most = max(map(len, found))
        if any(gate != always for entry in found for gate in entry):
            table = [entry + [always] * (most - len(entry)) for entry in found]
            deciding.append((axis, torch.tensor(table)))
    rank = len(groups.labels[name])
    usual = 1 if rank > 3 else rank - 1  # (n, c, h, w); (n, positions, c)
    return Feature(name, tuple(axis for axis, _ in deciding) or (usual,), tuple(deciding))
