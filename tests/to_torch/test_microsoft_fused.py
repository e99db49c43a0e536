"""Products, activations and normalisations of com.microsoft against onnxruntime."""

from typing import Any

import numpy as np
import pytest
import torch
from contrib import agree, single
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load

X = draw(2, 5, 8)
IMAGE = draw(2, 4, 6, 7)


@pytest.mark.parametrize(("op", "facts"), [("Gelu", {}), ("FastGelu", {}), ("QuickGelu", {"alpha": 1.3})])
def test_gelu_and_its_kin(op: str, facts: dict[str, Any]) -> None:
    agree(op, {"x": X}, atol=1e-4 if op == "FastGelu" else 1e-5, **facts)


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_gelu_of_a_sum(op: str) -> None:
    agree(op, {"x": X, "b": draw(8, seed=1)}, atol=1e-4)


ACTIVATIONS = [
    {},
    {"activation": "Relu"},
    {"activation": "Tanh"},
    {"activation": "Sigmoid"},
    {"activation": "LeakyRelu", "activation_params": [0.2]},
    {"activation": "Clip", "activation_params": [-0.5, 0.7]},
    {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
]


@pytest.mark.parametrize("facts", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("added", [True, False])
def test_fused_conv(added: bool, facts: dict[str, Any]) -> None:
    shape = (2, 6, 3, 4)
    inputs = {"x": IMAGE, "w": draw(6, 2, 3, 3), "b": draw(6), "z": draw(*shape, seed=2) if added else None}
    agree("FusedConv", inputs, group=2, strides=[2, 2], pads=[1, 1, 1, 1], atol=1e-4, **facts)


@pytest.mark.parametrize(
    "facts",
    [
        {"activation": "Relu"},
        {"activation": "LeakyRelu", "activation_alpha": 0.3},
        {"activation": "Elu", "activation_alpha": 0.5},
        {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4},
        {"activation": "Tanh", "alpha": 0.5, "beta": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("across", [0, 1])
def test_fused_gemm(across: int, facts: dict[str, Any]) -> None:
    w = draw(6, 8, seed=1) if across else draw(8, 6, seed=1)
    agree("FusedGemm", {"x": draw(3, 8), "w": w, "c": draw(6, seed=2)}, transB=across, **facts)


@pytest.mark.parametrize(
    ("a", "b", "facts"),
    [
        ((2, 3, 4, 5), (2, 3, 5, 6), {"alpha": 0.5}),
        ((2, 3, 5, 4), (2, 3, 5, 6), {"transA": 1}),
        ((2, 3, 4, 5), (2, 3, 6, 5), {"transB": 1}),
        ((4, 2, 3, 5), (2, 3, 5, 6), {"transBatchA": 1}),
        ((2, 3, 4, 5), (5, 2, 3, 6), {"transBatchB": 1}),
        ((5, 2, 3, 4), (6, 2, 3, 5), {"transA": 1, "transB": 1, "transBatchA": 1, "transBatchB": 1}),
        ((2, 3, 4, 5), (5, 6), {}),
    ],
    ids=str,
)
def test_fused_matmul(a: tuple[int, ...], b: tuple[int, ...], facts: dict[str, Any]) -> None:
    agree("FusedMatMul", {"a": draw(*a), "b": draw(*b, seed=1)}, fed=["a", "b"], **facts)


def test_transpose_matmul() -> None:
    agree("TransposeMatMul", {"a": draw(2, 5, 4), "b": draw(2, 6, 5)}, transA=1, transB=1, alpha=0.3)


@pytest.mark.parametrize("skip", [(2, 5, 8), (1, 5, 8), (5, 8)])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_skip_layer_normalization(bias: bool, shift: bool, skip: tuple[int, ...]) -> None:
    added = draw(8, seed=4) if bias else None
    inputs = {"x": X, "skip": draw(*skip, seed=1), "g": draw(8, seed=2)}
    agree("SkipLayerNormalization", {**inputs, "s": draw(8, seed=3) if shift else None, "b": added}, epsilon=0.05)
    agree("SkipSimplifiedLayerNormalization", {**inputs, "b": added}, epsilon=0.05)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_the_sum_of_a_skip_normalization_is_an_output(op: str) -> None:
    """onnxruntime leaves the two statistics before it unset on the CPU."""
    made = single(op, {"x": X, "skip": draw(2, 5, 8, seed=1), "g": draw(8)}, fed=["x"], outputs=4)
    made.graph.node[0].output[1] = made.graph.node[0].output[2] = ""
    del made.graph.output[1:3]
    for ours, theirs in zip(in_torch(load(made), X), in_onnxruntime(made, X), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 21])
def test_layer_norms_that_stand_in_the_domain_of_onnx(opset: int) -> None:
    inputs = {"x": X, "g": draw(8)}
    agree("SimplifiedLayerNormalization", inputs, domain="", version=opset, outputs=2, epsilon=0.05)
    agree("LayerNormalization", {**inputs, "b": draw(8, seed=1)}, domain="", version=opset, outputs=3, axis=-1)


def embeddings(*, segments: bool, masked: bool, placed: bool) -> dict[str, Array | None]:
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 9, (2, 5)).astype(np.int32),
        "kinds": rng.integers(0, 2, (2, 5)).astype(np.int32) if segments else None,
        "words": draw(9, 8),
        "places": draw(7, 8, seed=1),
        "segments": draw(2, 8, seed=2) if segments else None,
        "g": draw(8, seed=3),
        "b": draw(8, seed=4),
        "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32) if masked else None,
        "positions": np.array([[1, 2, 3, 4, 5]], np.int32) if placed else None,
    }


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize(("masked", "placed"), [(False, False), (True, False), (False, True), (True, True)])
def test_embed_layer_normalization(segments: bool, masked: bool, placed: bool) -> None:
    inputs = embeddings(segments=segments, masked=masked, placed=placed)
    agree("EmbedLayerNormalization", inputs, outputs=3, epsilon=0.05)


def on_a_gpu_only(op: str, inputs: dict[str, Array], **facts: Any) -> torch.Tensor:
    """What PyTorch gives for an op that onnxruntime has no kernel for on the CPU."""
    with torch.no_grad():
        y: torch.Tensor = load(single(op, inputs, fed=["x"], **facts))(torch.from_numpy(inputs["x"]))
    return y


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op", ["GroupNorm", "SkipGroupNorm"])
def test_group_norm_in_either_layout(op: str, last: int) -> None:
    x, scale, shift, skip = draw(2, 4, 3, 5), draw(4, seed=1), draw(4, seed=2), draw(2, 4, seed=3)
    total = torch.from_numpy(x)
    inputs = {"x": x.transpose(0, 2, 3, 1).copy() if last else x, "g": scale, "s": shift}
    if op == "SkipGroupNorm":
        inputs |= {"skip": skip, "b": draw(4, seed=4)}
        total = total + torch.from_numpy(skip + inputs["b"])[:, :, None, None]
    y = on_a_gpu_only(op, inputs, groups=2, activation=1, channels_last=last, epsilon=0.05)
    normed = torch.nn.functional.group_norm(total, 2, torch.from_numpy(scale), torch.from_numpy(shift), 0.05)
    expected = torch.nn.functional.silu(normed)
    torch.testing.assert_close(y, expected.permute(0, 2, 3, 1) if last else expected)


def test_sums_and_products_with_gelu() -> None:
    x, bias, w = torch.from_numpy(X), torch.from_numpy(draw(8)), torch.from_numpy(draw(8, 6))
    gelu = torch.nn.functional.gelu
    ours = on_a_gpu_only("BiasSplitGelu", {"x": X, "b": bias.numpy()})
    torch.testing.assert_close(ours, (x + bias)[..., :4] * gelu((x + bias)[..., 4:]))
    ours = on_a_gpu_only("BiasAdd", {"x": X, "b": bias.numpy(), "s": X})
    torch.testing.assert_close(ours, 2 * x + bias)
    ours = on_a_gpu_only("GemmFastGelu", {"x": X, "w": w.numpy(), "b": bias.numpy()[:6]})
    torch.testing.assert_close(ours, gelu(x @ w + bias[:6], approximate="tanh"))
