"""Gradients through quantised values: `load(..., straight_through=True)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import Array, draw

from onnxprune.to_torch import load

node = helper.make_node
GRID = {"s": np.float32(0.05), "z": np.int8(3)}
TO_GRID, FROM_GRID = node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["p", "s", "z"], ["y"])


def graph(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, Any],
    outputs: dict[str, int] | None = None,
    shape: Sequence[int] = (2, 3, 4, 4),
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, t, None) for n, t in (outputs or {"y": TensorProto.FLOAT}).items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in initializers.items()]
    made = helper.make_graph(list(nodes), "quantised", [x], ends, held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])


def run(made: onnx.ModelProto, x: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """The first output and the gradient of its sum; the output is the same without gradients."""
    given = torch.from_numpy(x).requires_grad_()
    module = load(made, straight_through=True)
    y = module(given)
    first = y[0] if isinstance(y, tuple) else y
    expected = load(made)(given)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(module(given), expected, rtol=0, atol=0)
    first.sum().backward()
    assert given.grad is not None
    return first, given.grad


def test_gradients_are_1_inside_the_range_and_0_where_it_saturates() -> None:
    x = np.linspace(-10, 10, 96, dtype=np.float32).reshape(2, 3, 4, 4)
    _, gradient = run(graph([TO_GRID, node("DequantizeLinear", ["q", "s", "z"], ["y"])], GRID), x)
    whole = np.round(x / np.float32(0.05)) + 3
    inside = (whole >= -128) & (whole <= 127)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(gradient, inside.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("code", [TensorProto.FLOAT8E4M3FN, TensorProto.UINT4, TensorProto.INT16])
def test_every_grid_lets_gradients_through(code: int) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=code),
        node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    x = np.abs(draw(2, 3, 4, 4)) * 0.1
    _, gradient = run(graph(nodes, {"s": GRID["s"]}), x)
    np.testing.assert_allclose(gradient, np.ones_like(x), rtol=1e-6)


MOVES = {
    "MaxPool": (node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), {}),
    "MaxPool with pads": (node("MaxPool", ["q"], ["p"], kernel_shape=[3, 3], pads=[0, 1, 2, 1]), {}),
    "Transpose": (node("Transpose", ["q"], ["p"], perm=[0, 2, 3, 1]), {}),
    "Reshape": (node("Reshape", ["q", "shape"], ["p"]), {"shape": np.array([2, -1])}),
    "Concat": (node("Concat", ["q", "more", "q"], ["p"], axis=1), {"more": np.ones((2, 1, 4, 4), np.int8)}),
    "Clip": (node("Clip", ["q", "low", "high"], ["p"]), {"low": np.int8(-9), "high": np.int8(11)}),
    "Pad": (node("Pad", ["q", "pads", "z"], ["p"]), {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "Slice": (node("Slice", ["q", "one", "two", "one"], ["p"]), {"one": np.array([1]), "two": np.array([2])}),
    "Resize": (
        node("Resize", ["q", "", "scales"], ["p"], mode="nearest"),
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Max": (node("Max", ["q", "more"], ["p"]), {"more": np.ones((2, 1, 4, 4), np.int8)}),
    "Where": (node("Where", ["c", "q", "z"], ["p"]), {"c": np.arange(4) % 2 == 0}),
}


@pytest.mark.parametrize("name", MOVES)
def test_gradients_pass_what_moves_quantised_values(name: str) -> None:
    move, more = MOVES[name]
    _, gradient = run(graph([TO_GRID, move, FROM_GRID], {**GRID, **more}), draw(2, 3, 4, 4))
    assert gradient.abs().sum() > 0


def test_split_values_pass_gradients_and_the_places_of_a_maximum_stay_integers() -> None:
    nodes = [
        TO_GRID,
        node("Split", ["q"], ["left", "right"], axis=3, num_outputs=2),
        node("MaxPool", ["right"], ["p", "places"], kernel_shape=[2, 2]),
        FROM_GRID,
    ]
    outputs = {"y": TensorProto.FLOAT, "places": TensorProto.INT64, "left": TensorProto.INT8}
    _, gradient = run(graph(nodes, GRID, outputs), draw(2, 3, 4, 4))
    assert gradient[..., 2:].abs().sum() > 0


def test_declared_outputs_and_ops_that_compute_get_integers() -> None:
    nodes = [
        TO_GRID,
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        node("Identity", ["q"], ["same"]),
        node("Cast", ["q"], ["wide"], to=TensorProto.INT32),
        node("Equal", ["q", "z"], ["is_zero"]),
    ]
    outputs = {"y": 1, "q": TensorProto.INT8, "same": TensorProto.INT8, "wide": TensorProto.INT32}
    run(graph(nodes, GRID, {**outputs, "is_zero": TensorProto.BOOL}), draw(2, 3, 4, 4))


def test_quantisation_aware_weights_get_the_gradient_of_fake_quantisation() -> None:
    nodes = [
        node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        node("Conv", ["x", "wd"], ["y"]),
    ]
    w, scales = draw(4, 3, 3, 3, seed=1), np.array([0.01, 0.02, 0.005, 0.03], np.float32)
    x = draw(2, 3, 4, 4)
    held = {"w": w, "ws": scales, "wz": np.zeros(4, np.int8)}
    module = load(graph(nodes, held), straight_through=True)
    module(torch.from_numpy(x)).square().sum().backward()
    weight = torch.from_numpy(w).requires_grad_()
    fake = torch.fake_quantize_per_channel_affine(
        weight, torch.from_numpy(scales), torch.zeros(4, dtype=torch.int32), 0, -128, 127
    )
    torch.nn.functional.conv2d(torch.from_numpy(x), fake).square().sum().backward()
    torch.testing.assert_close(module.get_parameter("w").grad, weight.grad)


def test_products_of_quantised_numbers_pass_gradients() -> None:
    """The gradient is that of the same products of what the integers stand for."""
    x, scale = draw(2, 3, 4, 4) * 0.3, np.float32(0.01)
    w = np.random.default_rng(0).integers(-20, 20, (4, 3, 3, 3)).astype(np.int8)
    m = np.random.default_rng(1).integers(-20, 20, (2, 5)).astype(np.int8)
    nodes = [
        TO_GRID,
        node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "cs", "z"], ["c"]),
        node("QLinearMatMul", ["c", "cs", "z", "m", "ws", "wz", "cs", "z"], ["p"]),
        node("DequantizeLinear", ["p", "cs", "z"], ["y"]),
    ]
    held = {**GRID, "w": w, "m": m, "ws": scale, "wz": np.int8(0), "cs": np.float32(0.1)}
    _, gradient = run(graph(nodes, held), x)
    given = torch.from_numpy(x).requires_grad_()
    real = torch.nn.functional.conv2d(given, torch.from_numpy(w * scale)) @ torch.from_numpy(m * scale)
    real.sum().backward()
    torch.testing.assert_close(gradient, given.grad, rtol=1e-4, atol=1e-5)


def test_dynamically_quantised_products_pass_gradients() -> None:
    w = np.random.default_rng(0).integers(0, 255, (4, 5)).astype(np.uint8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("MatMulInteger", ["q", "w", "qz", "wz"], ["total"]),
        node("Cast", ["total"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["real", "qs"], ["y"]),
    ]
    _, gradient = run(graph(nodes, {"w": w, "wz": np.uint8(120)}), draw(2, 3, 4, 4))
    expected = (w.astype(np.float32) - 120).sum(1)
    np.testing.assert_allclose(gradient, np.broadcast_to(expected, (2, 3, 4, 4)), rtol=1e-4)


def test_convolutions_of_integers_pass_gradients() -> None:
    w = np.random.default_rng(0).integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    nodes = [
        TO_GRID,
        node("ConvInteger", ["q", "w", "z", "wz"], ["total"]),
        node("Cast", ["total"], ["y"], to=TensorProto.FLOAT),
    ]
    _, gradient = run(graph(nodes, {**GRID, "w": w, "wz": np.uint8(120)}), draw(2, 3, 4, 4))
    assert gradient.abs().sum() > 0


def test_a_straight_through_model_compiles_whole() -> None:
    made = graph([TO_GRID, MOVES["MaxPool"][0], FROM_GRID], GRID)
    module = load(made, straight_through=True)
    x = torch.from_numpy(draw(2, 3, 4, 4)).requires_grad_()
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    y.sum().backward()
    assert torch.equal(y, module(x))
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_without_the_option_no_gradient_passes() -> None:
    x = torch.from_numpy(draw(2, 3, 4, 4)).requires_grad_()
    nodes = [TO_GRID, node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    assert not load(graph(nodes, GRID))(x).requires_grad
