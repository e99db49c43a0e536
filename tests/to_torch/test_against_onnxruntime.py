"""Forms of ops that the specification's newest cases no longer have, or have not enough of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from small import Array, draw, in_onnxruntime, in_torch, model

from onnxprune.to_torch import load

IMAGE = draw(2, 4, 7, 9)


def check(
    op: str,
    inputs: Sequence[Array | None],
    *,
    opset: int = 17,
    outputs: int = 1,
    constants: bool = True,
    **attributes: Any,
) -> None:
    """`op` agrees in both engines; the first input is the graph's, the rest too unless `constants`."""
    names = ["" if value is None else f"i{n}" for n, value in enumerate(inputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    fed = dict(list(given.items())[: 1 if constants else None])
    held = {name: value for name, value in given.items() if name not in fed}
    results = [f"o{n}" for n in range(outputs)]
    node = helper.make_node(op, names, results, **attributes)
    element = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    made = model([node], {n: v.shape for n, v in fed.items()}, results, held, opset=opset, element=element)
    for value in made.graph.input:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(fed[value.name].dtype)
    module = load(made)
    theirs = in_onnxruntime(made, *fed.values())
    for ours, expected in zip(in_torch(module, *fed.values()), theirs, strict=True):
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=5e-6 * np.abs(expected).max(initial=0))


REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 1]])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_with_axes_as_attribute(op: str, axes: list[int] | None, keepdims: int) -> None:
    given = {} if axes is None else {"axes": axes}
    check(f"Reduce{op}", [draw(2, 3, 4)], opset=11, keepdims=keepdims, **given)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_with_axes_as_input(op: str) -> None:
    check(f"Reduce{op}", [draw(2, 3, 4), np.array([-2])], opset=18)


def test_no_axes_can_mean_no_reduction() -> None:
    check("ReduceSum", [draw(2, 3)], opset=13, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_before_and_after_opset_13(op: str, axis: int, opset: int) -> None:
    check(op, [draw(2, 3, 4)], opset=opset, axis=axis)


@pytest.mark.parametrize("opset", [11, 13])
def test_the_default_axis_of_softmax_changed_with_opset_13(opset: int) -> None:
    check("Softmax", [draw(2, 3, 4)], opset=opset)


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes", "outputs"),
    [
        (11, [], {"split": [1, 5]}, 2),
        (11, [], {}, 3),
        (13, [np.array([2, 4])], {}, 2),
        (13, [], {}, 2),
        (18, [], {"num_outputs": 3}, 3),
        (18, [np.array([1, 2, 3])], {}, 3),
    ],
)
def test_split_in_every_form(
    opset: int, inputs: list[Array], attributes: dict[str, Any], outputs: int
) -> None:
    check("Split", [draw(2, 6), *inputs], opset=opset, outputs=outputs, axis=-1, **attributes)


@pytest.mark.parametrize("constants", [True, False])
@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 0], [3, 100], [1, 2], [1, 2]),
        ([-1], [-100], [2], [-1]),
        ([100, -2], [0, -(2**40)], [1, -1], [-2, -3]),
        ([3], [1], [1], [1]),
        ([1], [3], [1], [-1]),
    ],
)
def test_slice(
    starts: list[int], ends: list[int], axes: list[int], steps: list[int], constants: bool
) -> None:
    check("Slice", [draw(2, 4, 7), *(np.array(v) for v in (starts, ends, axes, steps))], constants=constants)


def test_slice_with_attributes() -> None:
    check("Slice", [draw(2, 4, 7)], opset=9, starts=[0, -3], ends=[1, 2**31 - 1], axes=[0, 2])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("constants", [True, False])
def test_pad(mode: str, constants: bool) -> None:
    check("Pad", [IMAGE, np.array([0, 1, 2, 3, 0, 0, 4, 1])], mode=mode, constants=constants)


@pytest.mark.parametrize("opset", [7, 10])
def test_pad_with_attributes(opset: int) -> None:
    check("Pad", [IMAGE], opset=opset, pads=[0, 0, 1, 2, 0, 1, -1, 0], value=2.5)


def test_pad_with_a_value_and_axes() -> None:
    check("Pad", [IMAGE, np.array([1, 2, 3, 4]), np.array(1.5, np.float32), np.array([-1, 1])], opset=18)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op", ["Squeeze", "Unsqueeze"])
def test_squeeze_and_unsqueeze_in_both_forms(op: str, opset: int) -> None:
    x = draw(1, 3, 1, 2)
    if opset == 11:
        check(op, [x], opset=opset, axes=[0, 2])
    else:
        check(op, [x, np.array([0, -2])], opset=opset)


@pytest.mark.parametrize("constants", [True, False])
@pytest.mark.parametrize("shape", [[0, -1], [4, 0, -1], [2, 2, 0, -1, 1]])
def test_reshape(shape: list[int], constants: bool) -> None:
    check("Reshape", [draw(4, 2, 6), np.array(shape)], constants=constants)


def test_reshape_with_a_zero_that_means_zero() -> None:
    check("Reshape", [draw(0, 4), np.array([2, 0])], allowzero=1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis: int) -> None:
    check("Flatten", [draw(2, 3, 4)], axis=axis)


@pytest.mark.parametrize("constants", [True, False])
@pytest.mark.parametrize("shape", [[2, 1, 6], [3, 1], [3, 6], [2, 1, 3, 6]])
def test_expand(shape: list[int], constants: bool) -> None:
    check("Expand", [draw(3, 1), np.array(shape)], constants=constants)


@pytest.mark.parametrize(("lower", "upper"), [(-0.5, 0.5), (None, 0.1), (0.2, None), (None, None), (1, -1)])
@pytest.mark.parametrize("constants", [True, False])
def test_clip(lower: float | None, upper: float | None, constants: bool) -> None:
    bounds = [None if b is None else np.array(b, np.float32) for b in (lower, upper)]
    check("Clip", [draw(20), *bounds], constants=constants)


def test_clip_with_attributes() -> None:
    check("Clip", [draw(20)], opset=7, min=-0.5, max=0.1)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [-1, [0, -2], [[1, 0], [-1, -1]]])
def test_gather_counts_negative_indices_from_the_end(indices: Any, axis: int) -> None:
    check("Gather", [draw(3, 2, 4), np.array(indices)], axis=axis)


WINDOWS = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [0, 1, 2, 0]},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 4], "strides": [3, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_max_pool(window: dict[str, Any], ceil_mode: int) -> None:
    check("MaxPool", [IMAGE], ceil_mode=ceil_mode, **window)


@pytest.mark.parametrize("window", WINDOWS[:3], ids=str)
def test_max_pool_with_indices(window: dict[str, Any]) -> None:
    check("MaxPool", [IMAGE], outputs=2, **window)


def test_max_pool_with_dilations() -> None:
    check("MaxPool", [IMAGE], kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 0, 0, 2])


@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_average_pool(window: dict[str, Any], ceil_mode: int, count_include_pad: int) -> None:
    check(
        "AveragePool", [IMAGE], opset=19, ceil_mode=ceil_mode, count_include_pad=count_include_pad, **window
    )


CONVOLUTIONS = [
    {},
    {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    {"pads": [0, 1, 2, 0], "dilations": [2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID"},
]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("attributes", CONVOLUTIONS, ids=str)
def test_conv(attributes: dict[str, Any], group: int) -> None:
    check("Conv", [IMAGE, draw(6, 4 // group, 3, 2), draw(6)], group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_in_one_and_three_dimensions(rank: int) -> None:
    check("Conv", [draw(2, 4, *[6] * rank), draw(3, 4, *[3] * rank)], pads=[1] * 2 * rank)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 3], "pads": [0, 1, 2, 0], "dilations": [1, 2]},
        {"strides": [2, 2], "output_padding": [1, 0]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [14, 17]},
        {"strides": [2, 2], "output_shape": [14, 17], "auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    check("ConvTranspose", [IMAGE, draw(4, 3, 3, 3), draw(3)], **attributes)


@pytest.mark.parametrize("bias", [None, (), (5,), (3, 1), (3, 5)])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(trans_a: int, trans_b: int, bias: tuple[int, ...] | None) -> None:
    a, b = draw(*(4, 3) if trans_a else (3, 4)), draw(*(5, 4) if trans_b else (4, 5))
    for scales in ({}, {"alpha": 0.5, "beta": 2.0}):
        c = [] if bias is None else [np.asarray(draw(*bias), np.float32)]
        check("Gemm", [a, b, *c], transA=trans_a, transB=trans_b, **scales)


@pytest.mark.parametrize("scales", [[1, 1, 2, 3], [1, 1, 0.6, 0.5], [1, 1, 1.5, 2]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_and_the_first_resize(mode: str, scales: list[float]) -> None:
    factors = np.array(scales, np.float32)
    check("Resize", [IMAGE, factors], opset=10, mode=mode)
    if min(scales) >= 1:
        check("Upsample", [IMAGE, factors], opset=9, mode=mode)
        check("Upsample", [IMAGE], opset=7, mode=mode, scales=[float(f) for f in scales])


@pytest.mark.parametrize("factors", [[2, 2], [3, 1], [0.6, 0.5], [1.3, 0.7]], ids=str)
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_by_scales(mode: str, coordinates: str, factors: list[float]) -> None:
    check(
        "Resize", [IMAGE, None, np.array([1, 1, *factors], np.float32)], mode=mode,
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip


@pytest.mark.parametrize("sizes", [[14, 18], [5, 11], [7, 1]], ids=str)
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_to_sizes(mode: str, coordinates: str, sizes: list[int]) -> None:
    check(
        "Resize", [IMAGE, None, None, np.array([2, 4, *sizes])], mode=mode,
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_resize_nearest_modes(nearest: str, factor: float) -> None:
    check(
        "Resize",
        [IMAGE, None, np.array([1, 1, factor, factor], np.float32)],
        mode="nearest",
        nearest_mode=nearest,
    )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [5, 2]])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(op: str, gates: int, lengths: list[int] | None, direction: str) -> None:
    ways, hidden, states = (2 if direction == "bidirectional" else 1), 3, (2 if op == "LSTM" else 1)
    inputs: list[Array | None] = [
        draw(5, 2, 4),
        draw(ways, gates * hidden, 4, seed=1),
        draw(ways, gates * hidden, hidden, seed=2),
        draw(ways, 2 * gates * hidden, seed=3),
        None if lengths is None else np.array(lengths, np.int32),
        *(draw(ways, 2, hidden, seed=4 + s) for s in range(states)),
    ]
    variants = ({"linear_before_reset": 0}, {"linear_before_reset": 1}) if op == "GRU" else ({},)
    for variant in variants:
        check(op, inputs, hidden_size=hidden, direction=direction, outputs=1 + states, **variant)


@pytest.mark.parametrize("opset", [10, 11])
def test_top_k(opset: int) -> None:
    check("TopK", [draw(3, 7), np.array([4])], opset=opset, outputs=2, axis=1)


def test_split_makes_the_last_part_smaller() -> None:
    check("Split", [draw(2, 7)], opset=18, outputs=3, axis=1, num_outputs=3)


def test_integer_division_goes_towards_zero() -> None:
    check("Div", [np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])])


def test_quantised_convolution() -> None:
    x = np.random.default_rng(0).integers(0, 255, (1, 3, 6, 6)).astype(np.uint8)
    w = np.random.default_rng(1).integers(-128, 127, (4, 3, 3, 3)).astype(np.int8)
    check("QLinearConv", [
        x, np.float32(0.02) * np.ones((), np.float32), np.array(128, np.uint8),
        w, np.linspace(0.01, 0.02, 4, dtype=np.float32), np.zeros(4, np.int8),
        np.array(0.3, np.float32), np.array(120, np.uint8), np.arange(4, dtype=np.int32),
    ], pads=[1, 1, 1, 1])  # fmt: skip


def test_float16_stays_float16() -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3]}, ["y"],
                 {"w": draw(3, 2).astype(np.float16)}, element=TensorProto.FLOAT16)  # fmt: skip
    x = draw(2, 3).astype(np.float16)
    (ours,), (theirs,) = in_torch(load(made), x), in_onnxruntime(made, x)
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_compile_as_one_graph(op: str) -> None:
    node = helper.make_node(f"Reduce{op}", ["x", "axes"], ["y"])
    module = load(model([node], {"x": ["N", 3, 4]}, ["y"], {"axes": np.array([1])}, opset=18))
    x = torch.from_numpy(draw(2, 3, 4))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x), equal_nan=True)


def test_the_gradient_of_a_norm_is_zero_where_the_vector_is() -> None:
    module = load(model([helper.make_node("ReduceL2", ["x"], ["y"], axes=[1])], {"x": ["N", 3]}, ["y"]))
    x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], requires_grad=True)
    module(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.8]]))
