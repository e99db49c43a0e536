"""Linear models, support vectors and the features around them, against onnxruntime."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from sklearn.datasets import load_iris
from sklearn.svm import SVC, SVR, OneClassSVM
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load

ML = "ai.onnx.ml"
X = draw(7, 4)
WEIGHTS = draw(3, 4).reshape(-1).tolist()
TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]


def made(op: str, inputs: list[Array], outputs: int, version: int = 3, **attributes: Any) -> onnx.ModelProto:
    names, results = [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)]
    code = helper.np_dtype_to_tensor_dtype
    ends = [
        helper.make_tensor_value_info(n, code(v.dtype), v.shape) for n, v in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op, names, results, domain=ML, **attributes)
    out = [helper.make_empty_tensor_value_info(r) for r in results]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(ML, version)]
    model = helper.make_model(helper.make_graph([node], "g", ends, out), opset_imports=imports, ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def agree(op: str, *inputs: Array, outputs: int = 1, version: int = 3, **attributes: Any) -> None:
    model = made(op, list(inputs), outputs, version, **attributes)
    for ours, theirs in zip(in_torch(load(model), *inputs), in_onnxruntime(model, *inputs), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        # onnxruntime's PROBIT is an approximation
        np.testing.assert_allclose(ours, theirs, rtol=1e-3 if "PROBIT" in str(attributes) else 1e-4, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("targets", "intercepts"), [(1, [0.1]), (3, [0.1, 0.2, 0.3]), (3, None)])
def test_linear_regression(targets: int, intercepts: list[float] | None, transform: str) -> None:
    given = {} if intercepts is None else {"intercepts": intercepts}
    agree(
        "LinearRegressor", X, coefficients=WEIGHTS[: 4 * targets], targets=targets, post_transform=transform, **given
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("labels", [[5, 6], [5, -6, 7]])
def test_linear_classification(labels: list[int], transform: str) -> None:
    count = len(labels)
    agree(
        "LinearClassifier", X, outputs=2, coefficients=WEIGHTS[: 4 * count], intercepts=[0.1, 0.2, 0.3][:count],
        classlabels_ints=labels, post_transform=transform,
    )  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS[:-1])
def test_two_classes_by_one_linear_function(transform: str) -> None:
    agree(
        "LinearClassifier", X, outputs=2, coefficients=WEIGHTS[:4], intercepts=[0.1], classlabels_ints=[5, 6],
        post_transform=transform,
    )  # fmt: skip


def test_gradients_reach_the_features() -> None:
    model = made("LinearClassifier", [X], 2, coefficients=WEIGHTS, classlabels_ints=[0, 1, 2], post_transform="SOFTMAX")
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(load(model)(x)[1][:, 0].sum(), x)
    assert gradient.any()


def test_scaler() -> None:
    agree("Scaler", X, offset=[0.1, 0.2, 0.3, 0.4], scale=[1.0, 2.0, 3.0, 4.0])
    agree("Scaler", X, offset=[0.5], scale=[2.0])
    agree("Scaler", (10 * X).astype(np.int64), offset=[0.5], scale=[2.0])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str) -> None:
    x = X.copy()
    x[2] = 0
    agree("Normalizer", x, norm=norm)
    agree("Normalizer", X.astype(np.float64), norm=norm)


def test_binarizer() -> None:
    agree("Binarizer", X, threshold=0.2)


def test_imputer() -> None:
    x = X.copy()
    x[1, 2] = x[3, 0] = np.nan
    agree("Imputer", x, imputed_value_floats=[1.0, 2.0, 3.0, 4.0], replaced_value_float=float("nan"))
    whole = np.arange(8).reshape(2, 4) % 3
    agree("Imputer", whole, imputed_value_int64s=[7], replaced_value_int64=2)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_one_hot_encoder(dtype: type[np.generic]) -> None:
    agree("OneHotEncoder", np.array([[3, 1], [9, 5]]).astype(dtype), cats_int64s=[5, 3, 1], zeros=1)


def test_label_encoder() -> None:
    keys, values = [4, -2, 9], [1.5, 2.5, 3.5]
    x = np.array([[9, 4], [0, -2]])
    agree("LabelEncoder", x, keys_int64s=keys, values_floats=values, default_float=-7.0)
    agree("LabelEncoder", x.astype(np.float32), keys_floats=[float(k) for k in keys], values_int64s=[1, 2, 3])
    x = np.array([1.0, np.nan, 3.0], np.float32)
    agree("LabelEncoder", x, version=4, keys_floats=[float("nan"), 1.0], values_floats=[5.0, 6.0])


def test_label_encoder_with_tensors() -> None:
    table = {
        "keys_tensor": helper.make_tensor("k", onnx.TensorProto.INT64, [3], [4, 2, 9]),
        "values_tensor": helper.make_tensor("v", onnx.TensorProto.DOUBLE, [3], [0.5, 1.5, 2.5]),
        "default_tensor": helper.make_tensor("d", onnx.TensorProto.DOUBLE, [1], [-1.0]),
    }
    x = np.array([9, 9, 1, 4])
    (ours,) = in_torch(load(made("LabelEncoder", [x], 1, 4, **table)), x)
    np.testing.assert_array_equal(ours, np.array([2.5, 2.5, -1, 0.5]), strict=True)


def test_array_feature_extractor() -> None:
    agree("ArrayFeatureExtractor", X, np.array([[2, 0]]))
    agree("ArrayFeatureExtractor", X[0], np.array([2, 0, 1]))


def test_feature_vectorizer() -> None:
    agree("FeatureVectorizer", X, X[:, :2], inputdimensions=[4, 2])
    agree("FeatureVectorizer", X, X[:, :2], inputdimensions=[3, 3])


IRIS, KIND = load_iris(return_X_y=True)
KERNELS = [
    {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]},
    {"kernel_type": "POLY", "kernel_params": [0.1, 0.2, 2.0]},
    {"kernel_type": "RBF", "kernel_params": [0.1, 0.0, 0.0]},
    {"kernel_type": "SIGMOID", "kernel_params": [0.01, 0.1, 0.0]},
]


def options(kernel: dict[str, Any]) -> dict[str, Any]:
    gamma, offset, degree = kernel["kernel_params"]
    kind = kernel["kernel_type"].lower()
    return {"kernel": kind, "gamma": gamma or "scale", "coef0": offset, "degree": int(degree) or 3}


def learned(machine: Any) -> dict[str, Any]:
    """What scikit-learn found, as attributes."""
    return {
        "coefficients": machine.dual_coef_.ravel().tolist(),
        "support_vectors": machine.support_vectors_.ravel().tolist(),
        "rho": machine.intercept_.tolist(),
    }


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k["kernel_type"])
def test_support_vector_regression_of_scikit_learn(kernel: dict[str, Any]) -> None:
    machine = SVR(**options(kernel)).fit(IRIS, KIND)
    x, count = IRIS.astype(np.float32), len(machine.support_)
    model = made("SVMRegressor", [x], 1, n_supports=count, **learned(machine), **kernel)
    (ours,) = in_torch(load(model), x)
    np.testing.assert_allclose(ours[:, 0], machine.predict(IRIS), atol=2e-3)


def test_one_class_machines_say_in_or_out() -> None:
    machine = OneClassSVM(gamma=0.1, nu=0.3).fit(IRIS)
    count = len(machine.support_)
    agree("SVMRegressor", IRIS.astype(np.float32), n_supports=count, one_class=1, **learned(machine), **KERNELS[2])


def test_machines_without_vectors_are_linear() -> None:
    agree("SVMRegressor", X, coefficients=WEIGHTS[:4], rho=[0.1], **KERNELS[0])
    agree("SVMClassifier", X, outputs=2, coefficients=WEIGHTS, rho=[0.1], classlabels_ints=[5, 6, 7], **KERNELS[0])


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k["kernel_type"])
def test_support_vector_classification(kernel: dict[str, Any], classes: int, transform: str) -> None:
    chosen = classes > KIND
    machine = SVC(**options(kernel)).fit(IRIS[chosen], KIND[chosen])
    model = made(
        "SVMClassifier", [IRIS.astype(np.float32)], 2, vectors_per_class=machine.n_support_.tolist(),
        classlabels_ints=[5, 6, 7][:classes], post_transform=transform, **learned(machine), **kernel,
    )  # fmt: skip
    x = IRIS.astype(np.float32)
    (label, scores), (their_label, their_scores) = in_torch(load(model), x), in_onnxruntime(model, x)
    np.testing.assert_array_equal(label, their_label)
    np.testing.assert_allclose(scores, their_scores, rtol=1e-3, atol=1e-3)
    if classes == 3:  # with two, scikit-learn keeps its numbers with the other sign
        assert (label == machine.predict(IRIS) + 5).mean() > 0.98


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_of_support_vector_machines(classes: int) -> None:
    chosen = classes > KIND
    machine = SVC(gamma=0.1).fit(IRIS[chosen], KIND[chosen])
    pairs = classes * (classes - 1) // 2
    model = made(
        "SVMClassifier", [IRIS.astype(np.float32)], 2, vectors_per_class=machine.n_support_.tolist(),
        classlabels_ints=[5, 6, 7][:classes], prob_a=[-1.5, -2.0, -1.0][:pairs], prob_b=[0.1, -0.2, 0.3][:pairs],
        **learned(machine), **KERNELS[2],
    )  # fmt: skip
    x = IRIS.astype(np.float32)
    (label, p), (their_label, their_p) = in_torch(load(model), x), in_onnxruntime(model, x)
    np.testing.assert_array_equal(label, their_label)
    np.testing.assert_allclose(p, their_p, atol=5e-3)  # theirs is the same system, solved by iteration
