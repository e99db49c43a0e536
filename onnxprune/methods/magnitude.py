"""Data-free importance: the norm of everything a channel owns, over all coupled weights."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError, PlanError
from onnxprune.groups import Groups
from onnxprune.weights import blocks

Entrywise = Callable[[np.ndarray], np.ndarray]
CRITERIA: dict[str, tuple[Entrywise, Entrywise]] = {
    "l1": (np.abs, np.asarray),
    "l2": (np.square, np.sqrt),
}
"""What is summed over the entries of a channel, and what is made of the sum."""


def magnitude(groups: Groups, criterion: str = "l2") -> dict[str, np.ndarray]:
    """Per group one score a channel, shape (size,), mean 1.

    Each coupled weight gives every channel the norm of its slice relative to the mean over that weight's channels,
    so that no single layer of a shared channel decides (group normalisation as in Fang et al., DepGraph, CVPR 2023,
    arXiv 2301.12900). Raises ModelError on weights with NaN or infinity, PlanError on an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion '{criterion}' is unknown; choose one of {', '.join(CRITERIA)}")
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
        raise ModelError(
            f"{groups.model.where}: weight '{tensor.name}' holds NaN or infinity; export it from a sound checkpoint"
        )
    for axis, norms in zip(free, _norms(tensor, free, criterion, largest or 1.0), strict=True):
        np.add.at(scores, atoms[axis], _relative(norms))


def _norms(tensor: gs.Constant, axes: list[int], criterion: str, largest: float) -> list[np.ndarray]:
    """For each of the axes the norms of its slices, of the weight divided by its largest entry."""
    entry, total = CRITERIA[criterion]
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
