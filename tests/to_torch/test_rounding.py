"""Element types that PyTorch does not compute with: what holds them, and how numbers become theirs."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import Array, draw, in_onnxruntime, in_torch, model

from onnxprune.to_torch import load, write_back
from onnxprune.to_torch.operands import FLOAT6E2M3, FLOAT6E3M2, INT2, UINT2, to_bytes, to_tensor
from onnxprune.to_torch.ops import rounding

WEIGHTS = np.random.default_rng(0).integers(-8, 8, (6, 8))


def packed(values: Array, code: int, *, raw: bool = True) -> onnx.TensorProto:
    """An initializer of a small type, its numbers two or four to a byte."""
    array = values.astype(helper.tensor_dtype_to_np_dtype(code))
    if raw:
        return numpy_helper.from_array(array, "w")
    return helper.make_tensor("w", code, values.shape, values.reshape(-1).tolist())


def behind_dequantize(
    weight: onnx.TensorProto, scale: Array, zero: Array | None = None, **attributes: int
) -> onnx.ModelProto:
    """x [N, 6] times the dequantised weight [6, 8]."""
    inputs = ["w", "scale"] if zero is None else ["w", "scale", "zero"]
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["d"], **attributes),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    made = model(nodes[1:], {"x": ["N", 6]}, ["y"], {"d": draw(6, 8), "scale": scale}, opset=21)
    made.graph.node.insert(0, nodes[0])
    del made.graph.initializer[0]
    made.graph.initializer.append(weight)
    if zero is not None:
        made.graph.initializer.append(packed(zero, weight.data_type))
        made.graph.initializer[-1].name = "zero"
    made.ir_version = 10
    return made


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("scale", "attributes"),
    [
        (np.float32(0.1), {}),
        (np.abs(draw(8)) + 0.1, {"axis": 1}),
        (np.abs(draw(6)) + 0.1, {"axis": 0}),
        (np.abs(draw(6, 4)) + 0.1, {"axis": 1, "block_size": 2}),
        (np.abs(draw(2, 8)) + 0.1, {"axis": 0, "block_size": 3}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("code", "shift"), [(TensorProto.INT4, 0), (TensorProto.UINT4, 8)])
def test_weights_of_4_bits_are_dequantised(
    code: int, shift: int, scale: Array, attributes: dict[str, int], raw: bool
) -> None:
    zero = np.full(np.shape(scale), 3 + shift // 8, np.int64)
    made = behind_dequantize(packed(WEIGHTS + shift, code, raw=raw), np.asarray(scale), zero, **attributes)
    x = draw(5, 6)
    (ours,), (theirs,) = in_torch(load(made), x), in_onnxruntime(made, x, optimized=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def embedding(code: int, *, raw: bool = True) -> onnx.ModelProto:
    """Rows of the weight [6, 8] that x [N] asks for, dequantised."""
    weight = packed(np.abs(WEIGHTS) % 2, code, raw=raw)
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "scale"], ["y"]),
    ]
    ends = [("x", TensorProto.INT64, ["N"]), ("y", TensorProto.FLOAT, ["N", 8])]
    x, y = (helper.make_tensor_value_info(*end) for end in ends)
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    graph = helper.make_graph(nodes, "embedding", [x], [y], [weight, scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])


SMALL = [TensorProto.INT4, TensorProto.UINT4, INT2, UINT2, TensorProto.FLOAT4E2M1]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("code", SMALL)
def test_weights_of_a_small_type_go_back_as_they_came(code: int, raw: bool) -> None:
    made = embedding(code, raw=raw)
    module = load(made)
    rows = module(torch.tensor([4, 0]))
    np.testing.assert_array_equal(rows, 0.5 * (np.abs(WEIGHTS) % 2)[[4, 0]])
    assert write_back(module, made).SerializeToString() == made.SerializeToString()


@pytest.mark.parametrize("code", SMALL)
def test_changed_weights_of_a_small_type_go_back_packed(code: int) -> None:
    made = embedding(code)
    module = load(made)
    module.get_buffer("w").copy_((module.get_buffer("w").float() == 0).to(torch.uint8))
    written = write_back(module, made).graph.initializer[0]
    assert (written.data_type, list(written.dims)) == (code, [6, 8])
    assert len(written.raw_data) < 48
    np.testing.assert_array_equal(numpy_helper.to_array(written).astype(int), np.abs(WEIGHTS) % 2 == 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("code", "lowest", "highest"),
    [(TensorProto.INT4, -8, 7), (TensorProto.UINT4, 0, 15), (INT2, -2, 1), (UINT2, 0, 3)],
)
def test_changed_weights_of_a_small_type_are_packed(code: int, lowest: int, highest: int, count: int) -> None:
    values = np.random.default_rng(1).integers(lowest, highest + 1, count)
    proto = TensorProto(data_type=code, dims=[count], raw_data=to_bytes(torch.from_numpy(values), code))
    assert len(proto.raw_data) < count or count == 1
    assert to_tensor(proto).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("code", "reference"),
    [
        (TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
        (FLOAT6E2M3, ml_dtypes.float6_e2m3fn),
        (FLOAT6E3M2, ml_dtypes.float6_e3m2fn),
    ],
)
def test_small_floats_round_to_nearest_and_ties_to_even(code: int, reference: type) -> None:
    x = np.concatenate([np.linspace(-40, 40, 20001), draw(10000) * 3, [np.inf, -np.inf]]).astype(np.float32)
    ours = rounding.cast(torch.from_numpy(x), code).to(torch.float32).numpy()
    np.testing.assert_array_equal(ours, x.astype(reference).astype(np.float32))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [True, False])
def test_powers_of_two_round_as_the_specification_says(saturate: bool, mode: str) -> None:
    x = np.abs(draw(5000)) * np.float32(2) ** np.random.default_rng(0).integers(-126, 127, 5000)
    x = np.concatenate([x, [0, np.inf, 3.4e38, 1e-45]]).astype(np.float32)
    ours = rounding.cast(torch.from_numpy(x), 24, saturate, mode).view(torch.uint8).numpy()
    theirs = numpy_helper.to_float8e8m0(x, saturate, mode).view(np.uint8)
    np.testing.assert_array_equal(ours, theirs)
