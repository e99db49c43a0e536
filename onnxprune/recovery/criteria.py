"""How much a channel matters on calibration inputs, to what reads it or to the outputs: scores to choose by."""

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.calibration import Batches
from onnxprune.errors import PlanError
from onnxprune.groups import Group
from onnxprune.methods.magnitude import CRITERIA as BY_WEIGHTS
from onnxprune.methods.magnitude import magnitude
from onnxprune.recovery.anatomy import Anatomy

BY_OUTPUTS = ("reconstruction",)
"""What is settled while channels go one after the other."""
TAYLOR_BATCH = 32
FISHER_SAMPLES = 256
"""At the most; each has a forward and some backward passes of its own."""


def scored(anatomy: Anatomy, batches: Batches, criterion: str) -> dict[str, np.ndarray]:
    """Per group one score a channel, shape (size,), comparable between groups. Raises PlanError on an unknown name."""
    if criterion in BY_WEIGHTS:
        return magnitude(anatomy.groups, criterion)
    if criterion not in BY_INPUTS:
        known = ", ".join((*BY_INPUTS, *BY_WEIGHTS))
        raise PlanError(f"criterion '{criterion}' is unknown; choose one of {known}")
    return BY_INPUTS[criterion](anatomy, batches)


def wanda(anatomy: Anatomy, batches: Batches) -> dict[str, np.ndarray]:
    """The square of |weight| times the norm of its input, summed over a channel's weights in all that read it, as a
    share of the same sum over all channels (after Sun, Liu, Bair, Kolter, ICLR 2024, arXiv 2306.11695; for single
    weights).
    """
    return _of_readers(anatomy, _activation)


def _activation(anatomy: Anatomy, group: Group) -> np.ndarray:
    total = np.zeros(group.size)
    for one, rows in anatomy.readers[group.name]:
        moments, weight = anatomy.moments[one.name], anatomy.weight(one)
        power = np.square(weight).sum(axis=2) * np.einsum("brr->br", moments.uu) / max(moments.count, 1)
        of_channels = np.sum([p[r].sum(axis=1) for p, r in zip(power, rows, strict=True)], axis=0)
        total += of_channels / max(float(power.sum()), 1e-12)
    return total


def reconstruction(anatomy: Anatomy, batches: Batches) -> dict[str, np.ndarray]:
    """What the output of all that reads a channel loses, relative to its variance, when it goes after all that are
    worth less and the weights of the others make up for it (`elimination`).
    """
    return _of_readers(anatomy, _lost)


def _lost(anatomy: Anatomy, group: Group) -> np.ndarray:
    elimination = anatomy.elimination(group)
    elimination.down_to(1)
    steps, rank = np.maximum.accumulate(np.diff(elimination.spent)), np.arange(len(elimination.order))
    scores = np.full(group.size, float(steps.max(initial=1.0)) * 2)
    # of equal ones the first goes first
    scores[elimination.order] = steps * (1 + 1e-6 * rank) + 1e-200 * rank
    return scores


def fisher(anatomy: Anatomy, batches: Batches) -> dict[str, np.ndarray]:
    """The diagonal of the Gauss-Newton Hessian, to the factors of the gates, of the outputs' distance to the original's
    (KL in nats, or squared error per variance and half of it): a factor of 1 - e costs e^2/2 of a score.

    The mean over samples of the squared gradient of each (Theis et al., arXiv 1801.05787, where it is of the labels'
    loss; here classes are the model's own). Raises ConversionError where PyTorch cannot express the model, PlanError.
    """
    return _curvature(anatomy, batches, 1, FISHER_SAMPLES)


def taylor(anatomy: Anatomy, batches: Batches) -> dict[str, np.ndarray]:
    """The mean over batches of (dL/db)^2, b being a gate's factor (Molchanov et al., CVPR 2019, arXiv 1906.10771).

    There L is the labels' loss. The distance to the original, which needs none, is flat at the original; so L is a loss
    to outputs drawn from the model itself. Its gradients are 0 in the mean, hence this estimates what `fisher` does:
    from a backward pass a batch, some times faster and less surely. Raises ConversionError, PlanError.
    """
    return _curvature(anatomy, batches, TAYLOR_BATCH, len(batches) * batches.size)


def _curvature(anatomy: Anatomy, batches: Batches, size: int, limit: int) -> dict[str, np.ndarray]:
    from onnxprune.training.gradients import curvature  # torch comes with it

    sizes = {group.name: group.size for group in anatomy.groups}
    gated, samples = anatomy.pieces.model.whole(), batches.samples
    return curvature(gated, sizes, samples, batch_size=size, limit=limit, seed=anatomy.seed)


def _of_readers(anatomy: Anatomy, score: Callable[[Anatomy, Group], np.ndarray]) -> dict[str, np.ndarray]:
    """Groups that no contraction reads alike go by the squared norm of their weights, as a share of the group's."""
    norms = magnitude(anatomy.groups)
    found = {}
    for group in anatomy.groups:
        squares = np.square(norms[group.name])
        plain = squares / max(float(squares.sum()), 1e-12)
        found[group.name] = score(anatomy, group) if anatomy.readers[group.name] else plain
    return found


BY_INPUTS: Mapping[str, Callable[[Anatomy, Batches], dict[str, np.ndarray]]] = {
    "reconstruction": reconstruction,
    "wanda": wanda,
    "taylor": taylor,
    "fisher": fisher,
}
"""Criteria that take calibration inputs."""
