"""Support vector machines of ai.onnx.ml."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from onnxprune.to_torch.ops.scores import transformed, two_classes
from onnxprune.to_torch.registry import converts

_LEAST = 1e-7  # libsvm keeps pairwise probabilities this far from 0 and 1


class Kernel(nn.Module):
    """From rows [batch, features] to their kernel values with each support vector [batch, vectors]."""

    vectors: Tensor

    def __init__(self, vectors: Tensor, kind: str, parameters: Sequence[float]) -> None:
        super().__init__()
        self.kind = kind
        self.gamma, self.offset, self.degree = tuple(parameters) or (0.0, 0.0, 0.0)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "RBF":
            return torch.exp(-self.gamma * (x[:, None] - self.vectors).square().sum(-1))
        product = x @ self.vectors.t()
        if self.kind == "POLY":
            return (self.gamma * product + self.offset) ** self.degree
        return torch.tanh(self.gamma * product + self.offset) if self.kind == "SIGMOID" else product


@converts("SVMRegressor", since=1, domain="ai.onnx.ml")
class SVMRegressor(nn.Module):
    """[batch, 1]; without support vectors the coefficients are those of the features."""

    coefficients: Tensor

    def __init__(
        self,
        *,
        coefficients: Sequence[float] = (),
        support_vectors: Sequence[float] = (),
        n_supports: int = 0,
        rho: Sequence[float] = (0.0,),
        kernel_type: str = "LINEAR",
        kernel_params: Sequence[float] = (),
        one_class: int = 0,
        post_transform: str = "NONE",
    ) -> None:
        super().__init__()
        vectors = torch.tensor(support_vectors if n_supports else coefficients).reshape(n_supports or 1, -1)
        self.kernel = Kernel(vectors, kernel_type, kernel_params)
        self.rho, self.one_class, self.transform = rho[0], one_class, post_transform
        factors = torch.tensor(coefficients if n_supports else (1.0,))
        self.register_buffer("coefficients", factors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = (self.kernel(x.to(torch.float32)) @ self.coefficients + self.rho).unsqueeze(1)
        return torch.where(y > 0, 1.0, -1.0) if self.one_class else transformed(y, self.transform)


@converts("SVMClassifier", since=1, domain="ai.onnx.ml")
class SVMClassifier(nn.Module):
    """Labels and scores: of classes by a linear model, of pairs of classes by support vectors, or probabilities.

    Where the labels are strings, which PyTorch has not, their numbers.
    """

    coefficients: Tensor
    labels: Tensor
    rho: Tensor
    sigmoid: Tensor

    def __init__(
        self,
        *,
        coefficients: Sequence[float] = (),
        support_vectors: Sequence[float] = (),
        vectors_per_class: Sequence[int] = (),
        rho: Sequence[float] = (0.0,),
        prob_a: Sequence[float] = (),
        prob_b: Sequence[float] = (),
        kernel_type: str = "LINEAR",
        kernel_params: Sequence[float] = (),
        classlabels_ints: Sequence[int] = (),
        classlabels_strings: Sequence[str] = (),
        post_transform: str = "NONE",
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        labels = list(classlabels_ints or range(len(classlabels_strings)))
        count, each = len(labels), list(vectors_per_class)
        vectors = torch.tensor(support_vectors if each else coefficients).reshape(sum(each) or count, -1)
        self.kernel, self.pairs = (
            Kernel(vectors, kernel_type, kernel_params),
            list(combinations(range(count), 2)),
        )
        weights = _by_pair(torch.tensor(coefficients), each, self.pairs) if each else torch.eye(count)
        self.by_pair, self.with_probabilities = bool(each), bool(prob_a)
        self.transform, self.n_outputs = post_transform, n_outputs
        bias = torch.tensor(rho) if each else torch.full((count,), rho[0])
        for name, table in (("coefficients", weights), ("rho", bias),
                            ("sigmoid", torch.tensor([prob_a, prob_b])), ("labels", torch.tensor(labels))):  # fmt: skip
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = self.kernel(x.to(torch.float32)) @ self.coefficients + self.rho
        chosen = (self._votes(scores) if self.by_pair else scores).argmax(1)
        if self.by_pair and self.with_probabilities:
            scores = _coupled(_pairwise(scores, self.sigmoid, self.pairs, len(self.labels)))
        if scores.shape[1] == 1:
            final = two_classes(scores, self.transform, complement=self.transform != "NONE")
        else:
            final = transformed(scores, self.transform)
        return (self.labels[chosen], final) if self.n_outputs > 1 else self.labels[chosen]

    def _votes(self, scores: Tensor) -> Tensor:
        """How many pairs each class wins; of equals the first counts."""
        first = torch.tensor([i for i, _ in self.pairs], device=scores.device)
        second = torch.tensor([j for _, j in self.pairs], device=scores.device)
        winners = torch.where(scores > 0, first, second)
        return (winners.unsqueeze(-1) == torch.arange(len(self.labels), device=scores.device)).sum(1)


def _by_pair(flat: Tensor, each: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Tensor:
    """[vectors, pairs] from libsvm's [classes - 1, vectors]: a pair (i, j) takes row j - 1 of i's, row i of j's."""
    table = flat.reshape(len(each) - 1, -1)
    owner = torch.repeat_interleave(torch.arange(len(each)), torch.tensor(each))
    return torch.stack([table[j - 1] * (owner == i) + table[i] * (owner == j) for i, j in pairs], 1)


def _pairwise(scores: Tensor, sigmoid: Tensor, pairs: Sequence[tuple[int, int]], classes: int) -> Tensor:
    """How likely each class is against each other [batch, classes, classes], by Platt's sigmoid."""
    likely = torch.sigmoid(-(scores * sigmoid[0] + sigmoid[1])).clamp(_LEAST, 1 - _LEAST)
    table = scores.new_zeros(len(scores), classes, classes)
    for n, (i, j) in enumerate(pairs):
        table[:, i, j], table[:, j, i] = likely[:, n], 1 - likely[:, n]
    return table


def _coupled(likely: Tensor) -> Tensor:
    """Probabilities [batch, classes] from pairwise ones (Wu, Lin and Weng 2004, method 2): a linear system."""
    classes = likely.shape[1]
    q = -likely.transpose(1, 2) * likely
    q = q + torch.diag_embed(likely.transpose(1, 2).square().sum(2))
    ones = likely.new_ones(len(likely), classes, 1)
    corner = likely.new_zeros(len(likely), 1, 1)
    system = torch.cat([torch.cat([q, ones], 2), torch.cat([ones.transpose(1, 2), corner], 2)], 1)
    wanted = torch.cat([likely.new_zeros(len(likely), classes, 1), corner + 1], 1)
    solved: Tensor = torch.linalg.solve(system.double(), wanted.double())
    return solved[:, :classes, 0].to(likely.dtype)
