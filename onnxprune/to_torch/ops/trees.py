"""Ensembles of decision trees: every row walks every tree at once, one level a step.

Each node is brought to one form: go left where x <= value, or < or == it. The opposite modes swap their sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from onnxprune.errors import ConversionError

_STRICT = {"BRANCH_LT", "BRANCH_GTE"}
_EQUAL = {"BRANCH_EQ", "BRANCH_NEQ"}
_SWAPPED = {"BRANCH_GTE", "BRANCH_GT", "BRANCH_NEQ"}


@dataclass
class Nodes:
    """The nodes of all trees; a leaf is its own child."""

    features: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    strict: list[bool] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)
    missing_left: list[bool] = field(default_factory=list)  # where NaN goes

    def leaf(self) -> None:
        here = len(self.features)
        self.branch(0, 0.0, (here, here), "LEAF")

    def branch(
        self, feature: int, value: float, sides: tuple[int, int], mode: str, missing: bool = False
    ) -> None:
        """A node whose `sides` are where it goes when true and when false; `missing`: NaN counts as true."""
        swapped = mode in _SWAPPED
        self.features.append(feature)
        self.values.append(value)
        self.left.append(sides[swapped])
        self.right.append(sides[not swapped])
        self.strict.append(mode in _STRICT)
        self.equal.append(mode in _EQUAL)
        # NaN compares as false; only "not equal" is true of it.
        self.missing_left.append((missing or mode == "BRANCH_NEQ") != swapped and mode != "LEAF")

    def depth(self, roots: Sequence[int]) -> int:
        """The longest way from a root to a leaf."""
        level, steps = set(roots), 0
        while level := {s for n in level for s in (self.left[n], self.right[n]) if s != n}:
            steps += 1
            if steps > len(self.features):
                raise ConversionError("a tree of the ensemble leads back to itself")
        return steps


class Forest(nn.Module):
    """From rows [batch, features] to the leaf that each reaches in each tree [batch, trees]."""

    roots: Tensor
    features: Tensor
    values: Tensor
    sides: Tensor
    strict: Tensor
    equal: Tensor
    missing_left: Tensor

    def __init__(self, nodes: Nodes, roots: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.depth = nodes.depth(roots)
        self.any_strict, self.any_equal = any(nodes.strict), any(nodes.equal)
        self.any_missing_left = any(nodes.missing_left)
        tables = {
            "roots": torch.tensor(list(roots)),
            "features": torch.tensor(nodes.features),
            "values": torch.tensor(nodes.values, dtype=dtype),
            "sides": torch.tensor([nodes.right, nodes.left]),
            "strict": torch.tensor(nodes.strict),
            "equal": torch.tensor(nodes.equal),
            "missing_left": torch.tensor(nodes.missing_left),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        place = self.roots.expand(x.shape[0], -1)
        for _ in range(self.depth):
            seen, value = x.gather(1, self.features[place]), self.values[place]
            left = seen <= value
            if self.any_strict:
                left = left & ~(self.strict[place] & (seen == value))
            if self.any_equal:
                left = torch.where(self.equal[place], seen == value, left)
            if self.any_missing_left:
                left = torch.where(seen.isnan(), self.missing_left[place], left)
            place = self.sides[left.long(), place]
        return place


class Ensemble(nn.Module):
    """The leaves' weights of a forest, put together: [batch, targets]."""

    weights: Tensor
    base: Tensor
    held: Tensor

    def __init__(
        self, forest: Forest, weights: Tensor, held: Tensor, base: Sequence[float], how: str
    ) -> None:
        """`weights` [nodes, targets], 0 but for leaves; `held` says which leaves have one for a target."""
        super().__init__()
        self.forest, self.how = forest, how
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("held", held, persistent=False)
        start = torch.zeros(weights.shape[1], dtype=weights.dtype)
        self.register_buffer(
            "base", start + torch.tensor(list(base) or 0.0, dtype=weights.dtype), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        leaves = self.forest(x)
        if self.how in ("SUM", "AVERAGE"):
            total = nn.functional.embedding_bag(leaves, self.weights, mode="sum")
            return (total / leaves.shape[1] if self.how == "AVERAGE" else total) + self.base
        least = self.how == "MIN"
        picked = torch.where(self.held[leaves], self.weights[leaves], torch.inf if least else -torch.inf)
        extreme = picked.amin(1) if least else picked.amax(1)
        return torch.where(self.held[leaves].any(1), extreme, 0) + self.base
