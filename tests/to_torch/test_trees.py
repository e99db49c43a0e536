"""Tree ensembles against onnxruntime: random ones of every kind, and scikit-learn's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from small import Array, in_onnxruntime, in_torch

from onnxprune.to_torch import load

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def ml_model(node: onnx.NodeProto, features: int, outputs: Sequence[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, ["N", features])],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))


def agree(op: str, x: Array, outputs: int = 1, **attributes: Any) -> None:
    names = [f"y{i}" for i in range(outputs)]
    made = ml_model(
        helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attributes), x.shape[1], names
    )
    for ours, theirs in zip(in_torch(load(made), x), in_onnxruntime(made, x), strict=True):
        assert (ours.dtype, ours.size) == (theirs.dtype, theirs.size)
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)


def grown(trees: int, targets: int, modes: Sequence[str], *, kind: str, dense: bool = False) -> dict[str, Any]:
    """Random trees of depth up to 4 over 5 features; `dense`: each leaf has weights for all targets."""
    draw = np.random.default_rng(0)
    nodes: dict[str, list[Any]] = {
        n: []
        for n in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                  "missing_value_tracks_true")
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {n: [] for n in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        queue, taken = [(0, 0)], 1
        while queue:
            node, depth = queue.pop(0)
            leaf = depth == 4 or (depth and draw.random() < 0.3)
            row = (tree, node, int(draw.integers(5)), "LEAF" if leaf else str(draw.choice(modes)),
                   float(draw.integers(-2, 3)), taken, taken + 1, int(draw.integers(2)))  # fmt: skip
            if leaf:
                row = (*row[:2], 0, "LEAF", 0.0, 0, 0, 0)
                for target in range(targets) if dense else sorted({*draw.integers(targets, size=2).tolist()}):
                    for name, value in zip(leaves, (tree, node, target, float(draw.normal())), strict=True):
                        leaves[name].append(value)
            else:
                queue += [(taken, depth + 1), (taken + 1, depth + 1)]
                taken += 2
            for name, value in zip(nodes, row, strict=True):
                nodes[name].append(value)
    return {f"nodes_{n}": v for n, v in nodes.items()} | {f"{kind}_{n}": v for n, v in leaves.items()}


def rows(seed: int = 0) -> Array:
    x = np.random.default_rng(seed).integers(-3, 4, (60, 5)).astype(np.float32)
    x[::7, 2] = np.nan
    return x


@pytest.mark.parametrize("mode", [*MODES, "all"])
def test_every_comparison_and_missing_values(mode: str) -> None:
    forest = grown(7, 1, MODES if mode == "all" else [mode], kind="target")
    agree("TreeEnsembleRegressor", rows(), n_targets=1, **forest)


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("based", [False, True])
def test_every_way_to_put_trees_together(based: bool, targets: int, how: str) -> None:
    base = {"base_values": [0.5, -1.0, 2.0][:targets]} if based else {}
    forest = grown(5, targets, MODES[:1], kind="target", dense=based)
    agree("TreeEnsembleRegressor", rows(), n_targets=targets, aggregate_function=how, **base, **forest)


@pytest.mark.parametrize("transform", ["SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_regression_scores_transformed(transform: str) -> None:
    forest = grown(5, 3, MODES[:1], kind="target")
    agree("TreeEnsembleRegressor", rows(), n_targets=3, post_transform=transform, **forest)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_classification(transform: str) -> None:
    forest = grown(5, 4, MODES[:1], kind="class")
    labels = [10, 0, -7, 3]
    agree(
        "TreeEnsembleClassifier", rows(), 2, classlabels_int64s=labels, post_transform=transform, **forest
    )


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("column", [0, 1])
def test_two_classes_from_one_score(column: int, positive: bool, transform: str, based: bool) -> None:
    forest = grown(5, 1, MODES[:1], kind="class")
    forest["class_ids"] = [column] * len(forest["class_ids"])
    if positive:
        forest["class_weights"] = [abs(w) / 5 for w in forest["class_weights"]]
    base = {"base_values": [0.3]} if based else {}
    agree(
        "TreeEnsembleClassifier", rows(), 2, classlabels_int64s=[3, 7], post_transform=transform, **base, **forest
    )


def test_labels_that_are_strings_may_go_unread() -> None:
    forest = grown(5, 3, MODES[:1], kind="class")
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml",
        classlabels_strings=["a", "b", "c"], **forest,
    )  # fmt: skip
    made = ml_model(node, 5, ["scores"])
    np.testing.assert_allclose(in_torch(load(made), rows())[0], in_onnxruntime(made, rows())[0], rtol=1e-5)


def exported(trees: list[Any], weights: Any) -> dict[str, Any]:
    """scikit-learn's trees as attributes; `weights(tree, node)` are a leaf's."""
    nodes: list[tuple[Any, ...]] = []
    leaves: list[tuple[Any, ...]] = []
    for t, tree in enumerate(trees):
        for n in range(tree.node_count):
            leaf = tree.children_left[n] == -1
            kind, feature = ("LEAF", 0) if leaf else ("BRANCH_LEQ", int(tree.feature[n]))
            sides = (0, 0) if leaf else (int(tree.children_left[n]), int(tree.children_right[n]))
            threshold = np.float32(tree.threshold[n])
            below = np.nextafter(threshold, np.float32(-np.inf)) if threshold > tree.threshold[n] else threshold
            nodes.append((t, n, feature, kind, float(below), *sides))
            leaves += [(t, n, c, float(w)) for c, w in enumerate(weights(tree, n))] if leaf else []
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    columns = dict(zip(names, map(list, zip(*nodes, strict=True)), strict=True))
    ends = dict(zip(("treeids", "nodeids", "ids", "weights"), map(list, zip(*leaves, strict=True)), strict=True))
    return {"nodes": columns, "leaves": ends}


def iris() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y


def test_a_random_forest_of_scikit_learn() -> None:
    x, y = iris()
    forest = RandomForestClassifier(20, max_depth=5, random_state=0).fit(x, y)
    parts = exported([e.tree_ for e in forest.estimators_], lambda t, n: t.value[n, 0] / t.value[n, 0].sum() / 20)
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2],
        **{f"nodes_{k}": v for k, v in parts["nodes"].items()},
        **{f"class_{k}": v for k, v in parts["leaves"].items()},
    )  # fmt: skip
    label, p = in_torch(load(ml_model(node, 4, ["label", "p"])), x)
    np.testing.assert_allclose(p, forest.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(label, forest.predict(x))


def test_gradient_boosting_of_scikit_learn() -> None:
    x, y = iris()
    forest = GradientBoostingRegressor(n_estimators=30, random_state=0).fit(x, y)
    parts = exported([e.tree_ for e in forest.estimators_[:, 0]], lambda t, n: 0.1 * t.value[n, 0])
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, base_values=[float(y.mean())],
        **{f"nodes_{k}": v for k, v in parts["nodes"].items()},
        **{f"target_{k}": v for k, v in parts["leaves"].items()},
    )  # fmt: skip
    np.testing.assert_allclose(in_torch(load(ml_model(node, 4, ["y"])), x)[0][:, 0], forest.predict(x), atol=1e-4)


def test_a_forest_compiles_as_one_graph_for_every_batch_size() -> None:
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        **grown(5, 1, MODES, kind="target"),
    )  # fmt: skip
    module = load(ml_model(node, 5, ["y"]))
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    for count in (60, 3, 1):
        x = torch.from_numpy(rows()[:count])
        torch.testing.assert_close(compiled(x), module(x), equal_nan=True)
