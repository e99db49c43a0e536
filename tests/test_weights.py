"""Which constants are weights, and what whole numbers among them stand for."""

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import helper
from text_nets import net

from onnxprune import model
from onnxprune.weights import blocks, is_weight, real, stored


def constants(text: str, opset: int = 21, **values: object) -> dict[str, gs.Constant]:
    proto = net(text, opset=opset, values={name: np.asarray(value) for name, value in values.items()})
    if "com.microsoft" in text:
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    tensors = model.load(proto).graph.tensors()
    return {name: tensors[name] for name in values}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_of_every_width_are_weights(dtype: type, capsys: pytest.CaptureFixture[str]):
    found = constants("net (float[2] x) => (float[2] y) { c = Cast<to=1>(w)  y = Add(x, c) }", w=np.ones(2, dtype))
    assert is_weight(found["w"])
    np.testing.assert_array_equal(np.asarray(real(found["w"]), np.float32), [1, 1])
    assert not capsys.readouterr().out


def test_sizes_and_indices_are_none():
    found = constants("net (float[2,2] x) => (float[4] y) { y = Reshape(x, shape) }", shape=np.int64([4]))
    assert not is_weight(found["shape"])
    assert real(found["shape"]) is None


PAIR = "net (float[2] x) => (float[2,3] y) { y = DequantizeLinear<ATTRIBUTES>(w, s, z) }"
WHOLE = np.int8([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("attributes", "s", "z", "rows"),
    [
        ("axis=0", np.float32(2), np.int8(1), [[0, 2, 4], [6, 8, 10]]),
        ("axis=0", np.float32([1, 2]), np.int8([0, 1]), [[1, 2, 3], [6, 8, 10]]),
        ("axis=1", np.float32([1, 2, 3]), np.int8([0, 0, 1]), [[1, 4, 6], [4, 10, 15]]),
        ("axis=-1, block_size=2", np.float32([[1, 2], [3, 4]]), np.int8([[0, 1], [0, 0]]), [[1, 2, 4], [12, 15, 24]]),
    ],
)
def test_what_is_dequantised_has_its_scale(attributes: str, s: np.ndarray, z: np.ndarray, rows: list[list[int]]):
    found = constants(PAIR.replace("ATTRIBUTES", attributes), w=WHOLE, s=s, z=z)
    assert is_weight(found["w"]) and not is_weight(found["z"])
    np.testing.assert_array_equal(real(found["w"]), rows)
    np.testing.assert_array_equal(np.concatenate(list(blocks(found["w"], 1) or ())), rows)


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.float8_e4m3fn])
def test_small_types_are_read(kind: type):
    found = constants(PAIR.replace("ATTRIBUTES", "axis=0"), w=WHOLE.astype(kind), s=np.float32(2), z=np.zeros((), kind))
    np.testing.assert_array_equal(real(found["w"]), 2 * WHOLE)


@pytest.mark.parametrize(
    ("op", "rows"),
    [
        ("QLinearMatMul(x, a, b, w, s, z, a, b)", [[1, 2, 6], [4, 8, 12]]),
        ("com.microsoft.QGemm(x, a, b, w, s, z, c, a, b)", [[1, 2, 6], [4, 8, 12]]),
        ("com.microsoft.MatMulIntegerToFloat(x, w, a, s, b, z)", [[1, 2, 6], [4, 8, 12]]),
        ("MatMulInteger(x, w, b, z)", [[1, 1, 3], [4, 4, 6]]),
    ],
)
def test_operands_of_quantised_ops_have_theirs(op: str, rows: list[list[int]]):
    values = {"a": np.float32(1), "b": np.uint8(0), "w": WHOLE, "c": np.int32([1, 2, 3])}
    values |= {"s": np.float32([1, 2, 2]), "z": np.int8([0, 1, 0])}
    read = {name: value for name, value in values.items() if f" {name}," in op.replace(")", ",")}
    found = constants(f"net (uint8[2,2] x) => (uint8[2,3] y) {{ y = {op} }}", **read)
    np.testing.assert_array_equal(real(found["w"]), rows)
    assert "c" not in found or is_weight(found["c"])


def test_what_a_value_is_dequantised_from():
    text = "net (float[2] x) => (float[2,3] y) { d = DequantizeLinear(w, s)  y = Add(d, x) }"
    proto = net(text, values={"w": WHOLE, "s": np.asarray(2, np.float32)})
    tensors = model.load(proto).graph.tensors()
    assert stored(tensors["d"]) is tensors["w"]
    assert stored(tensors["y"]) is tensors["y"] and stored(tensors["x"]) is tensors["x"]
