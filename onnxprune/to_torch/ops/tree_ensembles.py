"""The tree ensembles of ai.onnx.ml, in inference: what trees learn by is not a gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onnxprune.to_torch.ops.scores import numbers, transformed, two_classes
from onnxprune.to_torch.ops.trees import Ensemble, Forest, Nodes
from onnxprune.to_torch.registry import converts

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_Ints = Sequence[int]
_Numbers = Sequence[float] | Tensor | None


def _listed(
    tree: _Ints, node: _Ints, feature: _Ints, mode: Sequence[str], sides: tuple[_Ints, _Ints],
    value: _Numbers, missing: _Ints,
) -> tuple[Nodes, list[int]]:  # fmt: skip
    """The nodes as TreeEnsembleRegressor and Classifier list them, leaves among them, and the roots."""
    place = {key: i for i, key in enumerate(zip(tree, node, strict=True))}
    nodes, inner, values = Nodes(), set[int](), numbers(value)
    for i, kind in enumerate(mode):
        if kind == "LEAF":
            nodes.leaf()
            continue
        ways = place[tree[i], sides[0][i]], place[tree[i], sides[1][i]]
        inner.update(ways)
        nodes.branch(feature[i], values[i], ways, kind, bool(missing[i]) if missing else False)
    roots: dict[int, int] = {}
    for i, number in enumerate(tree):
        if i not in inner:
            roots.setdefault(number, i)
    return nodes, list(roots.values())


def _ensemble(
    nodes: Nodes, roots: Sequence[int], leaves: Sequence[tuple[int, int, float]], targets: int,
    *, base: Sequence[float] = (), how: str = "SUM", dtype: torch.dtype = torch.float32,
) -> Ensemble:  # fmt: skip
    """`leaves` are (node, target, weight)."""
    weights = torch.zeros(len(nodes.features), targets, dtype=dtype)
    held = torch.zeros(len(nodes.features), targets, dtype=torch.bool)
    for node, target, weight in leaves:
        weights[node, target] += weight
        held[node, target] = True
    return Ensemble(Forest(nodes, roots, dtype), weights, held, base, how)


def _dtype(*attributes: _Numbers) -> torch.dtype:
    given = [a.dtype for a in attributes if isinstance(a, Tensor)]
    return torch.float64 if torch.float64 in given else torch.float32


@converts("TreeEnsembleRegressor", since=1, domain="ai.onnx.ml")
class TreeEnsembleRegressor(nn.Module):
    def __init__(
        self, *, nodes_treeids: _Ints = (), nodes_nodeids: _Ints = (), nodes_featureids: _Ints = (),
        nodes_modes: Sequence[str] = (), nodes_values: _Numbers = None, nodes_values_as_tensor: _Numbers = None,
        nodes_truenodeids: _Ints = (), nodes_falsenodeids: _Ints = (),
        nodes_missing_value_tracks_true: _Ints = (), nodes_hitrates: _Numbers = None,
        nodes_hitrates_as_tensor: _Numbers = None, target_treeids: _Ints = (), target_nodeids: _Ints = (),
        target_ids: _Ints = (), target_weights: _Numbers = None, target_weights_as_tensor: _Numbers = None,
        n_targets: int = 1, base_values: _Numbers = None, base_values_as_tensor: _Numbers = None,
        aggregate_function: str = "SUM", post_transform: str = "NONE",
    ) -> None:  # fmt: skip
        super().__init__()
        values = nodes_values if nodes_values_as_tensor is None else nodes_values_as_tensor
        weights = target_weights if target_weights_as_tensor is None else target_weights_as_tensor
        base = base_values if base_values_as_tensor is None else base_values_as_tensor
        nodes, roots = _listed(
            nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
            (nodes_truenodeids, nodes_falsenodeids), values, nodes_missing_value_tracks_true,
        )  # fmt: skip
        places = _places(nodes_treeids, nodes_nodeids, target_treeids, target_nodeids)
        leaves = list(zip(places, target_ids, numbers(weights), strict=True))
        self.ensemble = _ensemble(
            nodes, roots, leaves, n_targets, base=numbers(base), how=aggregate_function,
            dtype=_dtype(values, weights),
        )  # fmt: skip
        self.transform = post_transform

    def forward(self, x: Tensor) -> Tensor:
        return transformed(self.ensemble(x), self.transform).to(torch.float32)


def _places(tree: _Ints, node: _Ints, leaf_tree: _Ints, leaf_node: _Ints) -> list[int]:
    place = {key: i for i, key in enumerate(zip(tree, node, strict=True))}
    return [place[key] for key in zip(leaf_tree, leaf_node, strict=True)]


@converts("TreeEnsembleClassifier", since=1, domain="ai.onnx.ml")
class TreeEnsembleClassifier(nn.Module):
    """Labels and scores; where the labels are strings, which PyTorch has not, their numbers.

    Where all weights are those of one of two classes, `single`, onnxruntime's rules make the scores of both.
    """

    labels: Tensor

    def __init__(
        self, *, nodes_treeids: _Ints = (), nodes_nodeids: _Ints = (), nodes_featureids: _Ints = (),
        nodes_modes: Sequence[str] = (), nodes_values: _Numbers = None, nodes_values_as_tensor: _Numbers = None,
        nodes_truenodeids: _Ints = (), nodes_falsenodeids: _Ints = (),
        nodes_missing_value_tracks_true: _Ints = (), nodes_hitrates: _Numbers = None,
        nodes_hitrates_as_tensor: _Numbers = None, class_treeids: _Ints = (), class_nodeids: _Ints = (),
        class_ids: _Ints = (), class_weights: _Numbers = None, class_weights_as_tensor: _Numbers = None,
        classlabels_int64s: _Ints = (), classlabels_strings: Sequence[str] = (),
        base_values: _Numbers = None, base_values_as_tensor: _Numbers = None, post_transform: str = "NONE",
        n_outputs: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        labels = classlabels_int64s or range(len(classlabels_strings))
        values = nodes_values if nodes_values_as_tensor is None else nodes_values_as_tensor
        weights = numbers(class_weights if class_weights_as_tensor is None else class_weights_as_tensor)
        base = numbers(base_values if base_values_as_tensor is None else base_values_as_tensor)
        nodes, roots = _listed(
            nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
            (nodes_truenodeids, nodes_falsenodeids), values, nodes_missing_value_tracks_true,
        )  # fmt: skip
        places = _places(nodes_treeids, nodes_nodeids, class_treeids, class_nodeids)
        single = len(labels) == 2 and len(set(class_ids)) == 1
        ids = [0] * len(class_ids) if single else class_ids
        self.single, self.complement = (class_ids[0] if single else None), min(weights, default=0) >= 0
        if single:
            base = base[-1:] if self.single == 0 else []
        self.ensemble = _ensemble(
            nodes, roots, list(zip(places, ids, weights, strict=True)), 1 if single else len(labels),
            base=base, dtype=_dtype(values, class_weights_as_tensor),
        )  # fmt: skip
        self.transform, self.n_outputs = post_transform, n_outputs
        self.register_buffer("labels", torch.tensor(list(labels)), persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores: Tensor = self.ensemble(x)
        if self.single is None:
            chosen, final = scores.argmax(1), transformed(scores, self.transform)
        else:
            chosen = (scores[:, 0] > (0.5 if self.complement else 0)).long()
            final = two_classes(scores, self.transform, complement=self.complement)
        if self.single == 1:
            final = transformed(torch.cat([torch.zeros_like(scores), scores], 1), self.transform)
        return (self.labels[chosen], final.to(torch.float32)) if self.n_outputs > 1 else self.labels[chosen]


@converts("TreeEnsemble", since=5, domain="ai.onnx.ml")
class TreeEnsemble(nn.Module):
    def __init__(
        self, *, tree_roots: _Ints, nodes_featureids: _Ints, nodes_modes: Tensor, nodes_splits: Tensor,
        nodes_truenodeids: _Ints, nodes_trueleafs: _Ints, nodes_falsenodeids: _Ints, nodes_falseleafs: _Ints,
        leaf_targetids: _Ints, leaf_weights: Tensor, nodes_hitrates: Tensor | None = None,
        nodes_missing_value_tracks_true: _Ints = (), membership_values: Tensor | None = None,
        n_targets: int = 1, aggregate_function: int = 1, post_transform: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        inner, sets, chains = len(nodes_featureids), _sets(membership_values), list[Any]()
        nodes, after = Nodes(), inner + len(leaf_targetids)
        for i, feature in enumerate(nodes_featureids):
            yes = nodes_truenodeids[i] + inner * nodes_trueleafs[i]
            no = nodes_falsenodeids[i] + inner * nodes_falseleafs[i]
            mode, value = _MODES[int(nodes_modes[i])], float(nodes_splits[i])
            missing = bool(nodes_missing_value_tracks_true and nodes_missing_value_tracks_true[i])
            if mode == "BRANCH_MEMBER":  # one comparison after the other
                value, *others = next(sets)
                ends = [*range(after + len(chains), after + len(chains) + len(others)), no]
                chains += [
                    (feature, v, (yes, e), "BRANCH_EQ", missing)
                    for v, e in zip(others, ends[1:], strict=True)
                ]
                mode, no = "BRANCH_EQ", ends[0]
            nodes.branch(feature, value, (yes, no), mode, missing)
        for _ in leaf_targetids:
            nodes.leaf()
        for chain in chains:
            nodes.branch(*chain)
        leaves = [(inner + i, t, float(leaf_weights[i])) for i, t in enumerate(leaf_targetids)]
        self.ensemble = _ensemble(
            nodes, tree_roots, leaves, n_targets, how=("AVERAGE", "SUM", "MIN", "MAX")[aggregate_function],
            dtype=_dtype(nodes_splits),
        )  # fmt: skip
        self.transform = _TRANSFORMS[post_transform]

    def forward(self, x: Tensor) -> Tensor:
        return transformed(self.ensemble(x), self.transform).to(x.dtype)


def _sets(values: Tensor | None) -> Any:
    """The sets of the membership nodes, which NaN parts."""
    members: list[float] = []
    for value in numbers(values):
        if value != value:  # noqa: PLR0124  (NaN)
            yield members
            members = []
        else:
            members.append(value)
    if members:
        yield members
