"""Linear models of ai.onnx.ml."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxprune.to_torch.ops.scores import transformed, two_classes
from onnxprune.to_torch.registry import converts


class Linear(nn.Module):
    """Coefficients of every output, one after the other, and intercepts."""

    coefficients: Tensor
    intercepts: Tensor | None

    def __init__(
        self, coefficients: Sequence[float], intercepts: Sequence[float] | None, outputs: int
    ) -> None:
        super().__init__()
        weight = torch.tensor(coefficients).reshape(outputs, -1)
        bias = torch.tensor(intercepts) if intercepts else None
        self.register_buffer("coefficients", weight, persistent=False)
        self.register_buffer("intercepts", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(torch.float32), self.coefficients, self.intercepts)


@converts("LinearRegressor", since=1, domain="ai.onnx.ml")
class LinearRegressor(nn.Module):
    def __init__(
        self,
        *,
        coefficients: Sequence[float] = (),
        intercepts: Sequence[float] | None = None,
        targets: int = 1,
        post_transform: str = "NONE",
    ) -> None:
        super().__init__()
        self.linear, self.transform = Linear(coefficients, intercepts, targets), post_transform

    def forward(self, x: Tensor) -> Tensor:
        return transformed(self.linear(x), self.transform)


@converts("LinearClassifier", since=1, domain="ai.onnx.ml")
class LinearClassifier(nn.Module):
    """Labels and scores; where the labels are strings, which PyTorch has not, their numbers."""

    labels: Tensor

    def __init__(
        self,
        *,
        coefficients: Sequence[float],
        intercepts: Sequence[float] | None = None,
        classlabels_ints: Sequence[int] = (),
        classlabels_strings: Sequence[str] = (),
        multi_class: int = 0,
        post_transform: str = "NONE",
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        labels = list(classlabels_ints or range(len(classlabels_strings)))
        outputs = len(intercepts) if intercepts else len(labels)
        self.linear, self.transform = Linear(coefficients, intercepts, outputs), post_transform
        self.n_outputs = n_outputs
        self.register_buffer("labels", torch.tensor(labels), persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores: Tensor = self.linear(x)
        if scores.shape[1] == 1:
            chosen = (scores[:, 0] > 0).long()
            final = two_classes(scores, self.transform, complement=True)
        else:
            chosen, final = scores.argmax(1), transformed(scores, self.transform)
        return (self.labels[chosen], final) if self.n_outputs > 1 else self.labels[chosen]
