"""Data-free importance: what the weights alone say of a channel, over everything that it owns."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import scopes
from onnxprune.errors import ModelError, PlanError
from onnxprune.groups import Groups
from onnxprune.methods.distances import distances
from onnxprune.model import array
from onnxprune.norms import norms
from onnxprune.weights import blocks

Entrywise = Callable[[np.ndarray], np.ndarray]
NORMS: dict[str, tuple[Entrywise, Entrywise]] = {
    "l1": (np.abs, np.asarray),
    "l2": (np.square, np.sqrt),
}
"""What is summed over the entries of a channel, and what is made of the sum."""
CRITERIA = (*NORMS, "gm", "bn")
"""What `magnitude` can rank by."""


def magnitude(groups: Groups, criterion: str = "l2") -> dict[str, np.ndarray]:
    """Per group one score a channel, shape (size,), mean 1.

    `l1`, `l2`: each coupled weight gives every channel the norm of its slice relative to the mean over that weight's
    channels, so that no single layer of a shared channel decides (group normalisation as in Fang et al., DepGraph,
    CVPR 2023, arXiv 2301.12900).
    `gm`: the same of how far its slice is from all others, least where others can stand for it (He et al., FPGM,
    CVPR 2019, arXiv 1811.00250).
    `bn`: |scale| of the BatchNormalizations that the group passes, each relative to its mean (Liu et al., Network
    Slimming, ICCV 2017, arXiv 1708.06519); `l2` for a group that passes none.
    Raises ModelError on weights with NaN or infinity, PlanError on an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion '{criterion}' is unknown; choose one of {', '.join(CRITERIA)}")
    if criterion == "bn":
        return _coupled(groups, "l2") | _scales(groups)
    return _coupled(groups, criterion)


def _scales(groups: Groups) -> dict[str, np.ndarray]:
    """Of groups that pass BatchNormalizations: the mean over those that a channel passes, 1 where it passes none."""
    tensors = scopes.tensors(groups.model.graph)
    found = {}
    passed = norms(groups)
    for group in groups:
        total, times = (np.zeros(group.size) for _ in range(2))
        for norm in passed[group.name]:
            scale = np.abs(array(tensors[norm.scale])[norm.entries].astype(np.float64))
            if not np.isfinite(scale).all():
                raise _unsound(groups, norm.scale)
            np.add.at(total, norm.channels, _relative(scale))
            np.add.at(times, norm.channels, 1)
        if times.any():
            found[group.name] = _relative(np.where(times > 0, total / np.maximum(times, 1), 1))
    return found


def _coupled(groups: Groups, criterion: str) -> dict[str, np.ndarray]:
    """What all coupled weights say of each channel."""
    scores = np.zeros(groups.atoms.count)
    for tensor in groups.model.graph.tensors().values():
        if isinstance(tensor, gs.Constant) and len(tensor.shape) > 1 and tensor.name in groups.labels:
            _add(groups, tensor, criterion, scores)
    for atom, follows in reversed(groups.atoms.derived.items()):
        for factor in follows:
            scores[factor] += scores[atom]
    return {group.name: _relative(scores[group.atoms]) for group in groups}


def _add(groups: Groups, tensor: gs.Constant, criterion: str, scores: np.ndarray) -> None:
    """Adds what each atom has of this weight."""
    labels = groups.labels[tensor.name]
    atoms = {axis: groups.atoms.of[found] for axis, found in enumerate(labels) if found is not None}
    free = [axis for axis, found in atoms.items() if (groups.atoms.because[found] < 0).any()]
    if not free or 0 in tensor.shape or blocks(tensor) is None:
        return
    largest = float(np.max([np.maximum(block.max(), -block.min()) for block in blocks(tensor) or ()]))
    if not np.isfinite(largest):
        raise _unsound(groups, tensor.name)
    if criterion == "gm":
        found = [distances(tensor, axis, atoms[axis], largest or 1.0) for axis in free]
    else:
        found = _norms(tensor, free, criterion, largest or 1.0)
    for axis, values in zip(free, found, strict=True):
        np.add.at(scores, atoms[axis], _relative(values))


def _unsound(groups: Groups, name: str) -> ModelError:
    return ModelError(
        f"{groups.model.where}: weight '{name}' holds NaN or infinity; export it from a sound checkpoint"
    )


def _norms(tensor: gs.Constant, axes: list[int], criterion: str, largest: float) -> list[np.ndarray]:
    """For each of the axes the norms of its slices, of the weight divided by its largest entry."""
    entry, total = NORMS[criterion]
    sums = [np.zeros(tensor.shape[axis]) for axis in axes]
    others = tuple(axis for axis in range(len(tensor.shape)) if axis not in axes)
    start = 0
    for block in blocks(tensor) or ():
        wide = block.astype(np.promote_types(block.dtype, np.float32), copy=False)
        part = entry((wide / largest).astype(np.float32, copy=False))  # squares cannot overflow
        part = part.sum(axis=others, keepdims=True)
        stop = start + len(block)
        for axis, sum_ in zip(axes, sums, strict=True):
            over = tuple(k for k in range(part.ndim) if k != axis)
            sum_[slice(start, stop) if axis == 0 else ...] += part.sum(axis=over)
        start = stop
    return [total(sum_) for sum_ in sums]


def _relative(values: np.ndarray) -> np.ndarray:
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)
