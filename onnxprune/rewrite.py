"""A plan carried out: weights sliced, sizes mended, in place."""

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import branches
from onnxprune.groups import Groups
from onnxprune.model import array
from onnxprune.ops import REPAIRS, Value
from onnxprune.plan import Plan
from onnxprune.tidy import tidy


class Remaining:
    """What a plan leaves of every axis; `ops.Kept` for the repairs."""

    def __init__(self, groups: Groups, removed: np.ndarray) -> None:
        self.groups = groups
        self.open = ~removed

    def mask(self, name: str, axis: int) -> np.ndarray | None:
        """Which entries stay, or None where all do."""
        axes = self.groups.labels.get(name)
        labels = axes[axis] if axes else None
        if labels is None:
            return None
        mask = self.open[self.groups.atoms.of[labels]]
        return None if mask.all() else mask

    def indices(self, value: Value | None, axis: int) -> np.ndarray:
        mask = self.mask(value.name, axis) if value else None
        return np.arange(_full_size(value, axis)) if mask is None else np.flatnonzero(mask)

    def size(self, value: Value | None, axis: int) -> int:
        mask = self.mask(value.name, axis) if value else None
        return _full_size(value, axis) if mask is None else int(mask.sum())

    def changed(self, value: Value | None) -> bool:
        axes = self.groups.labels.get(value.name, []) if value else []
        return value is not None and any(self.mask(value.name, axis) is not None for axis in range(len(axes)))


def _full_size(value: Value | None, axis: int) -> int:
    size = value.shape[axis] if value and value.shape else None
    if size is None:
        raise ValueError("a dynamic axis has no number of kept entries")
    return size


def apply(groups: Groups, plan: Plan) -> None:
    """Cuts what the plan does not keep out of the groups' model, in place."""
    removed = groups.removed(plan.kept)
    left = Remaining(groups, removed)
    going = branches.dead(groups, removed)
    for number, node in enumerate(groups.nodes):
        if number in going:
            continue
        mend = REPAIRS.get((node.domain, node.op))
        if mend and any(left.changed(value) for value in (*node.inputs, *node.outputs)):
            mend(node, left)
    for name in groups.labels:
        tensor = _tensor(groups, name)
        if tensor is None:
            continue
        if isinstance(tensor, gs.Constant):
            _slice(tensor, left)
        elif tensor.shape is not None:
            masks = [left.mask(name, axis) for axis in range(len(tensor.shape))]
            tensor.shape = [
                size if mask is None else int(mask.sum())
                for size, mask in zip(tensor.shape, masks, strict=True)
            ]
    branches.drop(groups, removed)
    tidy(groups.model.graph)


def _tensor(groups: Groups, name: str) -> gs.Tensor | None:
    value = groups.values.get(name)
    return value.raw if value else None


def _slice(tensor: gs.Constant, left: Remaining) -> None:
    values = None
    for axis in range(len(tensor.shape)):
        mask = left.mask(tensor.name, axis)
        if mask is not None:
            values = np.compress(mask, array(tensor) if values is None else values, axis=axis)
    if values is not None:
        tensor.values = np.ascontiguousarray(values)
