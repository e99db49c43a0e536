"""Quantised ops of com.microsoft against onnxruntime; they may differ by one step of the grid where it rounds."""

from typing import Any

import numpy as np
import pytest
import torch
from contrib import agree, single
from onnx import TensorProto, helper, numpy_helper
from small import Array, draw, in_onnxruntime

from onnxprune.to_torch import load
from onnxprune.to_torch.ops.microsoft_integer import unpacked

SHAPE = (2, 6, 5, 4)


def whole(*shape: int, dtype: type = np.uint8, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def grid(name: str, scale: float, zero: int | None, dtype: type = np.uint8) -> dict[str, Array | None]:
    return {f"{name}s": np.float32(scale), f"{name}z": None if zero is None else np.array(zero, dtype)}


def step_apart(op: str, inputs: dict[str, Array | None], **facts: Any) -> None:
    agree(op, inputs, rtol=0, atol=1, **facts)


TYPES = [(np.uint8, 120), (np.int8, 3)]


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize(("dtype", "zero"), TYPES)
@pytest.mark.parametrize("other", [SHAPE, (6, 1, 1), ()])
def test_sums_and_products(other: tuple[int, ...], dtype: type, zero: int | None, op: str) -> None:
    inputs = {
        "x": whole(*SHAPE, dtype=dtype), **grid("x", 0.05, zero, dtype), "b": whole(*other, dtype=dtype, seed=1),
        **grid("b", 0.02, zero, dtype), **grid("y", 0.1, zero, dtype),
    }  # fmt: skip
    step_apart(op, inputs)


@pytest.mark.parametrize(
    ("op", "facts", "scale"),
    [
        ("QLinearSigmoid", {}, 1 / 256),
        ("QLinearLeakyRelu", {"alpha": 0.2}, 0.05),
        ("QLinearSoftmax", {"opset": 13, "axis": 1}, 1 / 256),
        ("QLinearSoftmax", {"opset": 12, "axis": 2}, 1 / 256),
        ("QLinearGlobalAveragePool", {}, 0.02),
        ("QLinearGlobalAveragePool", {"channels_last": 1}, 0.02),
        ("QLinearAveragePool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}, 0.05),
        ("QLinearAveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}, 0.05),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "channels_last": 1}, 0.05),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "zero"), TYPES)
def test_functions_of_one_tensor(
    dtype: type, zero: int, op: str, facts: dict[str, Any], scale: float
) -> None:
    inputs = {"x": whole(*SHAPE, dtype=dtype), **grid("x", 0.05, zero, dtype), **grid("y", scale, zero, dtype)}
    step_apart(op, inputs, **facts)


def test_concat_brings_its_operands_to_one_grid() -> None:
    inputs = {
        **grid("y", 0.06, 100), "x": whole(*SHAPE), **grid("x", 0.05, 120), "b": whole(*SHAPE, seed=1),
        **grid("b", 0.03, 10),
    }  # fmt: skip
    step_apart("QLinearConcat", inputs, fed=["x"], axis=2)


def test_where_chooses_on_one_grid() -> None:
    inputs = {
        "c": np.random.default_rng(2).random(SHAPE) < 0.5, "x": whole(*SHAPE), **grid("x", 0.05, 120),
        "b": whole(*SHAPE, seed=1), **grid("b", 0.03, 10), **grid("y", 0.06, 100),
    }  # fmt: skip
    step_apart("QLinearWhere", inputs, fed=["x", "c"])


def test_max_pool_with_the_channels_last() -> None:
    agree("NhwcMaxPool", {"x": whole(*SHAPE)}, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])


@pytest.mark.parametrize("last", [0, 1])
def test_convolution_with_the_channels_last(last: int) -> None:
    x = whole(2, 5, 7, 6) if last else whole(2, 6, 5, 7)
    inputs = {
        "x": x, **grid("x", 0.02, 120), "w": whole(4, 3, 3, 3, dtype=np.int8),
        "ws": np.linspace(0.01, 0.02, 4, dtype=np.float32), "wz": np.zeros(4, np.int8), **grid("y", 0.3, 110),
        "b": np.arange(4, dtype=np.int32) * 50,
    }  # fmt: skip
    step_apart("QLinearConv", inputs, channels_last=last, group=2, pads=[1, 1, 1, 1], strides=[2, 1])


@pytest.mark.parametrize("per_column", [True, False])
@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize("rounded", [True, False])
def test_gemm(rounded: bool, across: int, per_column: bool) -> None:
    scales = np.linspace(0.01, 0.02, 5, dtype=np.float32)
    inputs = {
        "x": whole(3, 8), **grid("x", 0.02, 120), "w": whole(*((5, 8) if across else (8, 5)), dtype=np.int8),
        "ws": scales if per_column else scales[0], "wz": np.full(5 if per_column else (), 2, np.int8),
        "c": np.arange(5, dtype=np.int32) * 100, **(grid("y", 0.2, 100) if rounded else {}),
    }  # fmt: skip
    agree("QGemm", inputs, transB=across, alpha=0.5, rtol=1e-4, atol=int(rounded))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_products_with_float_results(dtype: type, bias: bool) -> None:
    weight = {"w": whole(8, 5, dtype=dtype), "ws": np.linspace(0.01, 0.02, 5, dtype=np.float32)}
    zero, added = np.full(5, 3, dtype), {"b": draw(5)} if bias else {}
    agree("DynamicQuantizeMatMul", {"x": draw(2, 3, 8), **weight, "wz": zero, **added})
    inputs = {"x": whole(2, 3, 8), "w": weight["w"], "xs": np.float32(0.03), "ws": weight["ws"]}
    agree("MatMulIntegerToFloat", {**inputs, "xz": np.array(120, np.uint8), "wz": zero, **added})


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantisation_in_the_domain_of_microsoft(dtype: type, op: str) -> None:
    x = draw(2, 3, 4) if op == "QuantizeLinear" else whole(2, 3, 4, dtype=dtype)
    scales = np.linspace(0.01, 0.02, 3, dtype=np.float32)
    agree(op, {"x": x, "s": scales, "z": np.full(3, 5, dtype)}, axis=1, version=17)


@pytest.mark.parametrize("zero", [None, "packed", "float"])
@pytest.mark.parametrize("k", [48, 45])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("facts", [{}, {"accuracy_level": 4}], ids=str)
def test_products_with_packed_weights(facts: dict[str, int], bits: int, k: int, zero: str | None) -> None:
    """At accuracy level 4 onnxruntime rounds the input too."""
    rng = np.random.default_rng(0)
    zeros = {
        None: None,
        "packed": rng.integers(0, 256, (5, -(-3 * bits // 8))).astype(np.uint8),
        "float": rng.uniform(0, 2**bits, (5, 3)).astype(np.float32),
    }[zero]
    if zero == "float" and (facts or bits != 4):
        pytest.skip("onnxruntime has no kernel")
    scales = rng.uniform(0.5, 1.5, (5, 3)).astype(np.float32) / 2**bits
    inputs = {"x": draw(2, 3, k), "w": whole(5, 3, 2 * bits), "s": scales, "z": zeros, "g": None, "b": draw(5)}
    tolerance = 0.1 if facts else 1e-3
    agree("MatMulNBits", inputs, K=k, N=5, block_size=16, bits=bits, rtol=0, atol=tolerance, **facts)


def test_every_bit_width_is_unpacked() -> None:
    for bits in range(2, 9):
        values = np.random.default_rng(bits).integers(0, 2**bits, (3, 16))
        stream = (values[..., None] >> np.arange(bits) & 1).reshape(3, -1)
        packed = np.packbits(stream.astype(np.uint8), axis=-1, bitorder="little")
        np.testing.assert_array_equal(unpacked(torch.from_numpy(packed), bits), values)


def test_gradients_pass_a_chain_of_quantised_ops() -> None:
    """The values are the same with and without them, and the declared output stays an integer."""
    node, domain = helper.make_node, {"domain": "com.microsoft"}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearAdd", ["q", "s", "z", "more", "s", "z", "s", "z"], ["a"], **domain),
        node("QLinearMul", ["a", "s", "z", "q", "s", "z", "s", "z"], ["m"], **domain),
        node("QLinearConcat", ["s", "z", "a", "s", "z", "m", "s", "z"], ["c"], axis=1, **domain),
        node("QLinearLeakyRelu", ["c", "s", "z", "s", "z"], ["l"], alpha=0.1, **domain),
        node("Transpose", ["l"], ["t"], perm=[0, 2, 3, 1]),
        node("NhwcMaxPool", ["t"], ["n"], kernel_shape=[2, 2], **domain),
        node("QLinearGlobalAveragePool", ["n", "s", "z", "s", "z"], ["p"], channels_last=1, **domain),
        node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    held = {"s": np.float32(0.05), "z": np.uint8(120), "more": whole(*SHAPE)}
    made = helper.make_model(
        helper.make_graph(
            nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
             helper.make_tensor_value_info("l", TensorProto.UINT8, None)],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in held.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8,
    )  # fmt: skip
    x = draw(*SHAPE)
    theirs = in_onnxruntime(made, x)
    given = torch.from_numpy(x).requires_grad_()
    ours, plain = load(made, straight_through=True)(given), load(made)(given)
    for a, b, c in zip(ours, plain, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        step = 1 if a.dtype == torch.uint8 else 0.06
        np.testing.assert_allclose(a.detach().double(), c.astype(float), rtol=0, atol=step)
    ours[0].sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0


def test_gradients_pass_dynamically_quantised_products() -> None:
    w = whole(8, 5)
    made = single("DynamicQuantizeMatMul", {"x": draw(2, 8), "w": w, "s": np.float32(0.1)}, fed=["x"])
    x = torch.from_numpy(draw(2, 8)).requires_grad_()
    load(made, straight_through=True)(x).sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(0.1 * w.astype(np.float32).sum(1), (2, 8)), rtol=1e-4)
    assert not load(made)(x).requires_grad


@pytest.mark.parametrize("per_column", [True, False])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_of_quantised_numbers(causal: int, per_column: bool) -> None:
    scales = np.linspace(0.005, 0.01, 24, dtype=np.float32)
    inputs = {
        "x": whole(2, 5, 6), "w": whole(6, 24, dtype=np.int8), "b": draw(24), "xs": np.float32(0.01),
        "ws": scales if per_column else scales[0], "m": np.array([3, 5], np.int32), "xz": np.array(120, np.uint8),
        "wz": np.zeros(24 if per_column else (), np.int8),
    }  # fmt: skip
    agree("QAttention", inputs, num_heads=2, unidirectional=causal)


@pytest.mark.parametrize("segments", [True, False])
def test_quantised_embeddings(segments: bool) -> None:
    rng = np.random.default_rng(0)
    grids = {"word": (9, 8), "place": (7, 8), "segment": (2, 8), "g": (8,), "b": (8,)}
    left_out = () if segments else ("segment",)
    inputs = {
        "ids": rng.integers(0, 9, (2, 5)).astype(np.int32),
        "kinds": rng.integers(0, 2, (2, 5)).astype(np.int32) if segments else None,
        **{n: None if n in left_out else whole(*s, seed=i) for i, (n, s) in enumerate(grids.items())},
        "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
        **{f"{n}_s": None if n in left_out else np.float32(0.02) for n in grids},
        **{f"{n}_z": None if n in left_out else np.array(100, np.uint8) for n in grids},
    }
    agree("QEmbedLayerNormalization", inputs, outputs=2, epsilon=0.05)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("per_column", [True, False])
def test_recurrent_layers_with_quantised_weights(per_column: bool, direction: str) -> None:
    """Within what onnxruntime loses by rounding the input and the states in each step."""
    ways, hidden = 2 if direction == "bidirectional" else 1, 4
    columns = (ways, 4 * hidden) if per_column else (ways,)
    scale, zero = np.full(columns, 0.005, np.float32), np.full(columns, 0 if per_column else 3, np.int8)
    inputs = {
        "x": draw(5, 2, 6), "w": whole(ways, 6, 4 * hidden, dtype=np.int8),
        "r": whole(ways, hidden, 4 * hidden, dtype=np.int8, seed=1), "b": draw(ways, 8 * hidden),
        "l": None, "h": None, "c": None, "p": None, "ws": scale, "wz": zero, "rs": scale, "rz": zero,
    }  # fmt: skip
    agree("DynamicQuantizeLSTM", inputs, outputs=3, hidden_size=hidden, direction=direction, rtol=0, atol=0.02)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_a_packed_table(bits: int, centred: bool) -> None:
    zeros = whole(9, -(-3 * bits // 8), seed=1) if centred else None
    scales = np.abs(draw(9, 3)) / 2**bits
    inputs = {"i": np.array([[0, 4], [-1, 8]]), "t": whole(9, 48 * bits // 8), "s": scales, "z": zeros}
    order = {name: inputs[name] for name in ("t", "i", "s", "z")}
    agree("GatherBlockQuantized", order, fed=["i"], bits=bits, block_size=16)


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize(("gathered", "blocked"), [(0, 1), (1, 0), (1, 1)])
def test_entries_of_a_table_of_4_bits(gathered: int, blocked: int, code: int) -> None:
    values = np.random.default_rng(0).integers(0, 8, (32, 48)).astype(helper.tensor_dtype_to_np_dtype(code))
    scales = np.abs(draw(32, 3) if blocked else draw(2, 48))
    inputs = {"t": values, "i": np.array([0, 4, 31]), "s": scales, "z": (scales > 1).astype(values.dtype)}
    agree("GatherBlockQuantized", inputs, fed=["i"], block_size=16, gather_axis=gathered, quantize_axis=blocked)
