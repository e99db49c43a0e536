"""What opsets 1 to 6 said in other ways; for most onnxruntime begins at 7, so the oracle is numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load


def run(
    op: str,
    *inputs: Array,
    opset: int,
    outputs: int = 1,
    held: tuple[int, ...] = (),
    **attributes: Any,
) -> list[Array]:
    """The node's outputs; the inputs numbered in `held` are initializers."""
    names, results = [f"x{i}" for i in range(len(inputs))], [f"{i}" for i in range(outputs)]
    values = dict(zip(names, inputs, strict=True))
    kept = [onnx_tensor(values[names[i]], names[i]) for i in held]
    fed = {n: v for i, (n, v) in enumerate(values.items()) if i not in held}
    code = helper.np_dtype_to_tensor_dtype
    ends = [helper.make_tensor_value_info(n, code(v.dtype), v.shape) for n, v in fed.items()]
    node = helper.make_node(op, names, results, **attributes)
    graph = helper.make_graph([node], "g", ends, [helper.make_empty_tensor_value_info(n) for n in results], kept)
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    return in_torch(module, *fed.values())


def onnx_tensor(value: Array, name: str) -> Any:
    return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value)


NUMPY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Less": np.less}


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(
    ("shape", "axis", "laid"),
    [
        ((2, 3, 4, 5), None, (2, 3, 4, 5)),
        ((), None, ()),
        ((1, 1), None, (1, 1)),
        ((4, 5), None, (4, 5)),
        ((3, 4), 1, (3, 4, 1)),
        ((2,), 0, (2, 1, 1, 1)),
        ((5,), -1, (5,)),
        ((4, 5), -1, (4, 5)),
    ],
)
@pytest.mark.parametrize("op", sorted(NUMPY))
def test_the_second_operand_starts_at_an_axis(
    op: str, shape: tuple[int, ...], axis: int | None, laid: tuple[int, ...], opset: int
) -> None:
    a, b = draw(2, 3, 4, 5), np.asarray(draw(*shape, seed=1), np.float32)
    given = {} if axis is None else {"axis": axis}
    (ours,) = run(op, a, b, opset=opset, broadcast=1, **given)
    np.testing.assert_allclose(ours, NUMPY[op](a, b.reshape(laid)), rtol=1e-6)


UNARY = ["Abs", "Ceil", "Exp", "Floor", "Neg", "Relu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "LeakyRelu"]


@pytest.mark.parametrize("op", UNARY)
def test_consumed_inputs_mean_nothing(op: str) -> None:
    x = draw(3, 4)
    np.testing.assert_array_equal(run(op, x, opset=1, consumed_inputs=[0])[0], run(op, x, opset=6)[0])


def test_selu_had_rounder_numbers() -> None:
    x = draw(9)
    want = np.where(x > 0, 1.0507 * x, 1.0507 * 1.6732 * np.expm1(x))
    np.testing.assert_allclose(run("Selu", x, opset=1)[0], want, rtol=1e-5)


@pytest.mark.parametrize(("lower", "upper"), [(None, None), (-0.5, None), (-0.5, 0.5)])
def test_clip_without_bounds(lower: float | None, upper: float | None) -> None:
    x = draw(20)
    given = {n: v for n, v in (("min", lower), ("max", upper)) if v is not None}
    want = np.clip(x, -np.inf if lower is None else lower, np.inf if upper is None else upper)
    np.testing.assert_array_equal(run("Clip", x, opset=1, **given)[0], want)


def test_shapes_and_sizes_as_attributes() -> None:
    x = draw(2, 3, 4)
    np.testing.assert_array_equal(run("Reshape", x, opset=1, shape=[0, -1])[0], x.reshape(2, 12))
    (padded,) = run("Pad", x, opset=1, paddings=[0, 1, 0, 0, 0, 2], value=3.0)
    np.testing.assert_array_equal(padded, np.pad(x, [(0, 0), (1, 0), (0, 2)], constant_values=3))
    np.testing.assert_array_equal(run("Concat", x, x, opset=1)[0], np.concatenate([x, x], 1))
    values, places = run("TopK", x, opset=1, outputs=2, k=2)
    np.testing.assert_array_equal(values, -np.sort(-x)[..., :2])
    np.testing.assert_array_equal(places, np.argsort(-x)[..., :2])


def test_split_by_an_input_or_an_attribute() -> None:
    x, sizes = draw(2, 5), np.array([1, 4], np.float32)
    for parts in (
        run("Split", x, opset=1, outputs=2, axis=1, split=[1, 4]),
        run("Split", x, sizes, opset=1, outputs=2, axis=1, held=(1,)),
    ):
        np.testing.assert_array_equal(parts[0], x[:, :1])
        np.testing.assert_array_equal(parts[1], x[:, 1:])


def test_tile_along_one_axis() -> None:
    x = draw(2, 3)
    (ours,) = run("Tile", x, np.array(3, np.float32), np.array(1, np.float32), opset=1, held=(1, 2))
    np.testing.assert_array_equal(ours, np.tile(x, (1, 3)))


def test_cast_to_a_type_by_name() -> None:
    assert run("Cast", draw(3), opset=1, to="INT32")[0].dtype == np.int32


def test_upsample_by_height_and_width() -> None:
    x = draw(1, 2, 3, 4)
    (ours,) = run("Upsample", x, opset=1, height_scale=2.0, width_scale=3.0)
    np.testing.assert_array_equal(ours, x.repeat(2, 2).repeat(3, 3))


@pytest.mark.parametrize("shape", [(1,), (3,)])
@pytest.mark.parametrize("opset", [1, 6])
def test_prelu_has_a_slope_or_one_per_channel(opset: int, shape: tuple[int, ...]) -> None:
    x, slope = draw(2, 3, 4), np.abs(draw(*shape))
    want = np.where(x < 0, x * slope[:, None], x)
    np.testing.assert_allclose(run("PRelu", x, slope, opset=opset)[0], want, rtol=1e-6)


@pytest.mark.parametrize("is_test", [{}, {"is_test": 1}])
def test_modes_in_the_file_leave_the_module_its_own(is_test: dict[str, int]) -> None:
    x, ones = draw(4, 3, 5), np.ones(3, np.float32)
    (normed,) = run("BatchNormalization", x, ones, ones, 0 * ones, ones, opset=6, epsilon=0.0, **is_test)
    np.testing.assert_allclose(normed, x + 1, rtol=1e-5)
    np.testing.assert_array_equal(run("Dropout", x, opset=6, ratio=0.9, **is_test)[0], x)


def test_gemm_with_broadcast() -> None:
    a, b, c = draw(2, 3), draw(4, 3), draw(4)
    (ours,) = run("Gemm", a, b, c, opset=6, transB=1, broadcast=1, alpha=2.0)
    np.testing.assert_allclose(ours, 2 * a @ b.T + c, rtol=1e-5)


def test_pools_of_opset_1() -> None:
    x = np.abs(draw(1, 2, 6, 6))
    (ours,) = run("LpPool", x, opset=1, kernel_shape=[2, 2], strides=[2, 2], p=3.0)
    cubes = (x**3).reshape(1, 2, 3, 2, 3, 2).sum((3, 5))
    np.testing.assert_allclose(ours, np.cbrt(cubes), rtol=1e-5)
    (ours,) = run("GlobalLpPool", x, opset=1, p=3.0)
    np.testing.assert_allclose(ours, np.cbrt((x**3).sum((2, 3), keepdims=True)), rtol=1e-5)
    (ours,) = run("AveragePool", x, opset=1, kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    np.testing.assert_allclose(ours[..., 0, 0], x[..., 0, 0], rtol=1e-6)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_of_opset_1_are_those_of_opset_7(op: str, gates: int) -> None:
    x, w, r = draw(5, 2, 4), draw(1, gates * 3, 4, seed=1), draw(1, gates * 3, 3, seed=2)
    old = run(op, x, w, r, opset=1, outputs=2, hidden_size=3, output_sequence=1)
    new = run(op, x, w, r, opset=7, outputs=2, hidden_size=3)
    for ours, theirs in zip(old, new, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_inputs_may_have_names_that_python_cannot_spell() -> None:
    names = ["0", "class", "self", "a.b", "a_b", "none?", ""]
    ends = [helper.make_tensor_value_info(n or "x y", 1, [2]) for n in names]
    node = helper.make_node("Sum", [e.name for e in ends], ["1"])
    graph = helper.make_graph([node], "g", ends, [helper.make_empty_tensor_value_info("1")])
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)]))
    assert module(*[torch.ones(2)] * len(names)).tolist() == [len(names)] * 2


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("ThresholdedRelu", {"alpha": 0.3}),
        ("Affine", {"alpha": 2.0, "beta": 0.5}),
        ("ParametricSoftplus", {"alpha": 2.0, "beta": 0.5}),
        ("ScaledTanh", {"alpha": 2.0, "beta": 0.5}),
        ("ImageScaler", {"bias": [0.1, 0.2, 0.3], "scale": 2.0}),
        ("Crop", {"border": [1, 2, 1, 1]}),
        ("Crop", {"border": [1, 2, 1, 1], "scale": [3, 2]}),
        ("MeanVarianceNormalization", {}),
        ("MeanVarianceNormalization", {"across_channels": 1}),
        ("MeanVarianceNormalization", {"normalize_variance": 0}),
    ],
)
def test_ops_that_were_on_trial_agree_with_onnxruntime(op: str, attributes: dict[str, Any]) -> None:
    x = draw(2, 3, 6, 7)
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x.shape), ("y", None))]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)
    (ours,), (theirs,) = in_torch(load(made), x), in_onnxruntime(made, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
