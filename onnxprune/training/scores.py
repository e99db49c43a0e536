"""Class scores: on which axis of an output they lie, and as logits."""

import math

import torch
from torch import Tensor

from onnxprune.errors import TrainingError

UNIT = 1e-3  # class probabilities sum to 1 but for this


def logits_of(scores: Tensor, axis: int, probabilities: bool) -> Tensor:
    """(n, classes, ...) of scores with the classes on `axis`; the one score of a yes-or-no question gives two.

    Cross-entropy of those two is binary cross-entropy of the one: softmax of (0, s) is sigmoid of s.
    """
    scores, tiny = scores.movedim(axis, 1), torch.finfo(scores.dtype).tiny
    if scores.shape[1] == 1:
        scores = torch.cat([1 - scores if probabilities else torch.zeros_like(scores), scores], 1)
    return scores.clamp_min(tiny).log() if probabilities else scores


def are_probabilities(scores: Tensor, axis: int) -> bool:
    """Whether scores are not negative and sum to 1 over `axis`; a single one must lie between 0 and 1."""
    sums = scores.sum(axis)
    fits = (sums <= 1) if scores.shape[axis] == 1 else ((sums - 1).abs() <= UNIT)
    return bool((scores >= 0).all() and fits.all())


def position_axis(scores: Tensor, labels: Tensor) -> int:
    """The axis of classes, 1 or -1, where there is one label per prediction."""
    if scores.dim() == labels.dim() + 1 and scores.shape[2:] == labels.shape[1:]:
        return 1
    if scores.dim() > 2 and scores.shape[:-1] == labels.shape:
        return -1  # (n, positions, classes), as language models have it
    raise TrainingError(
        f"labels 'y' {tuple(labels.shape)} do not fit the model's output {tuple(scores.shape)}: "
        "give one class number per prediction, or a task of your own"
    )


def pixel_axis(scores: Tensor, labels: Tensor) -> int:
    """The axis of classes, 1 or -1, of scores that may be coarser than the labels (n, height, width).

    The other axes are those that keep the labels' proportions better; channels-first where both do.
    """
    if scores.dim() != labels.dim() + 1 or labels.dim() < 3 or len(scores) != len(labels):
        raise TrainingError(
            f"labels 'y' {tuple(labels.shape)} do not fit the model's output {tuple(scores.shape)}: "
            "segmentation needs one class number per pixel (n, h, w) and scores (n, c, h, w) or (n, h, w, c)"
        )

    def distortion(sizes: torch.Size) -> float:
        strides = [math.log(wanted / size) for wanted, size in zip(labels.shape[1:], sizes, strict=True)]
        return max(strides) - min(strides)

    return 1 if distortion(scores.shape[2:]) <= distortion(scores.shape[1:-1]) else -1


def check_classes(labels: Tensor, classes: int) -> None:
    """Raises TrainingError where a class number is too large."""
    if labels.numel() and int(labels.max()) >= classes:
        raise TrainingError(
            f"labels 'y' go up to {int(labels.max())}, but the model has {classes} classes: "
            "number them from 0, or use the task regression"
        )
