"""What classifiers and regressors of ai.onnx.ml make of their raw scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import floats


def transformed(scores: Tensor, transform: str) -> Tensor:
    """Scores [batch, classes] after one of the specification's functions.

    A single score changes by PROBIT only, as in onnxruntime.
    """
    if scores.shape[1] == 1 and transform != "PROBIT":
        return scores
    if transform == "SOFTMAX":
        return scores.softmax(-1)
    if transform == "LOGISTIC":
        return scores.sigmoid()
    if transform == "PROBIT":
        probit: Tensor = torch.special.ndtri(scores)
        return probit
    if transform == "SOFTMAX_ZERO":  # of those that are not 0
        shares = torch.where(scores.abs() > 1e-7, (scores - scores.amax(-1, keepdim=True)).exp(), 0)
        return shares / shares.sum(-1, keepdim=True)
    return scores


def two_classes(score: Tensor, transform: str, *, complement: bool) -> Tensor:
    """Both classes' scores [batch, 2] from the second's [batch, 1]; `complement`: they add up to 1, not 0.

    Of the specification's functions the logistic alone applies here, as in onnxruntime.
    """
    if transform == "LOGISTIC":
        return torch.cat([-score, score], 1).sigmoid()
    return torch.cat([1 - score if complement else -score, score], 1)


def numbers(attribute: Sequence[float] | Tensor | None) -> list[float]:
    """An attribute that may be left out, or be a tensor."""
    return [] if attribute is None else floats(attribute)
