"""Data-free importance: the norm of everything a channel owns, over all coupled weights."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError, PlanError
from onnxprune.groups import Groups
from onnxprune.weights import real

CRITERIA: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "l1": lambda weight, over: np.abs(weight).sum(axis=over),
    "l2": lambda weight, over: np.sqrt(np.square(weight).sum(axis=over)),
}


def magnitude(groups: Groups, criterion: str = "l2") -> dict[str, np.ndarray]:
    """Per group one score a channel, shape (size,), mean 1.

    Each coupled weight gives every channel the norm of its slice relative to the mean over that weight's channels,
    so that no single layer of a shared channel decides (group normalisation as in Fang et al., DepGraph, CVPR 2023,
    arXiv 2301.12900). Raises ModelError on weights with NaN or infinity, PlanError on an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion '{criterion}' is unknown; choose one of {', '.join(CRITERIA)}")
    norm = CRITERIA[criterion]
    scores = np.zeros(groups.atoms.count)
    for tensor in groups.model.graph.tensors().values():
        if isinstance(tensor, gs.Constant) and len(tensor.shape) > 1 and tensor.name in groups.labels:
            _add(groups, tensor, norm, scores)
    for atom, follows in reversed(groups.atoms.derived.items()):
        for factor in follows:
            scores[factor] += scores[atom]
    return {group.name: _relative(scores[group.atoms]) for group in groups}


def _add(
    groups: Groups,
    tensor: gs.Constant,
    norm: Callable[[np.ndarray, tuple[int, ...]], np.ndarray],
    scores: np.ndarray,
) -> None:
    axes = [axis for axis, labels in enumerate(groups.labels[tensor.name]) if labels is not None]
    free = [
        axis
        for axis in axes
        if (groups.atoms.because[groups.atoms.of[groups.labels[tensor.name][axis]]] < 0).any()
    ]
    weight = real(tensor) if free else None
    if weight is None:
        return
    largest = np.abs(weight).max()
    if not np.isfinite(largest):
        raise ModelError(
            f"{groups.model.where}: weight '{tensor.name}' holds NaN or infinity; export it from a sound checkpoint"
        )
    weight = weight.astype(np.float32, copy=False) / (float(largest) or 1.0)  # squares cannot overflow
    for axis in free:
        labels = groups.labels[tensor.name][axis]
        values = norm(weight, tuple(k for k in range(weight.ndim) if k != axis))
        np.add.at(scores, groups.atoms.of[labels], _relative(values))


def _relative(values: np.ndarray) -> np.ndarray:
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)
