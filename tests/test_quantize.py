"""Quantised models, as onnxruntime's quantiser writes them, lose channels exactly."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import gates, model, rewrite
from onnxprune.cost import CostModel
from onnxprune.errors import PlanError
from onnxprune.ops import FORMS
from onnxprune.ops.forms import Form
from onnxprune.plan import Plan
from onnxprune.session import open_session
from onnxprune.slimming import Slimmed, slim

CNN = """net (float[N,3,16,16] x) => (float[N,10] y) {
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, stem, b0)  b = Relu(a)
    c = Conv<pads=[1,1,1,1], group=16>(b, deep, b1)  d = Relu(c)
    e = Conv(d, point, b2)  f = Add(b, e)
    g = Conv<pads=[1,1,1,1]>(f, wide, b3)  h = Sigmoid(g)  i = Mul(g, h)
    j = MaxPool<kernel_shape=[2,2], strides=[2,2]>(i)  k = GlobalAveragePool(j)  l = Flatten(k)
    m = Gemm<transB=1>(l, hidden, b4)  n = Relu(m)  y = Gemm<transB=1>(n, last, b5)
}"""
SHAPES = {
    "stem": (16, 3, 3, 3), "deep": (16, 1, 3, 3), "point": (16, 16, 1, 1), "wide": (32, 16, 3, 3), "hidden": (48, 32),
    "last": (10, 48), "b0": (16,), "b1": (16,), "b2": (16,), "b3": (32,), "b4": (48,), "b5": (10,),
}  # fmt: skip
GROUPS = {"stem": 16, "wide": 32, "hidden": 48}


class Pictures(CalibrationDataReader):
    def __init__(self) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = (
            {"x": np.random.default_rng(seed).standard_normal((4, 3, 16, 16), np.float32)} for seed in range(3)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def static(form: QuantFormat, per_channel: bool, a: str = "QUInt8", w: str = "QInt8") -> Callable[[Path, Path], None]:
    def quantised(source: Path, target: Path) -> None:
        quantize_static(
            source, target, Pictures(), quant_format=form, per_channel=per_channel, activation_type=QuantType[a],
            weight_type=QuantType[w],
        )  # fmt: skip

    return quantised


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "pairs": static(QuantFormat.QDQ, False),
    "pairs per channel": static(QuantFormat.QDQ, True),
    "pairs of int8": static(QuantFormat.QDQ, True, "QInt8"),
    "operators": static(QuantFormat.QOperator, False, "QUInt8", "QUInt8"),
    "operators per channel": static(QuantFormat.QOperator, True),
    "operators of int8": static(QuantFormat.QOperator, False, "QInt8"),
    "dynamic": quantize_dynamic,
    "dynamic per channel": lambda source, target: quantize_dynamic(source, target, per_channel=True),
}


@dataclass(frozen=True)
class Halved:
    before: Path
    after: Path
    result: Slimmed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("quantised")
    onnx.save(net(CNN, opset=17, **SHAPES), made / "float.onnx")
    return made


@pytest.fixture(scope="module", params=WAYS)
def halved(request: pytest.FixtureRequest, folder: Path) -> Halved:
    """What the quantiser makes of the network, and what is left of it."""
    before, after = folder / f"{request.param}.onnx", folder / f"{request.param}.slim.onnx"
    with warnings.catch_warnings():  # the quantiser's own
        warnings.simplefilter("ignore")
        WAYS[request.param](folder / "float.onnx", before)
    return Halved(before, after, slim(before, after, ratio=0.5))


def test_what_the_quantiser_writes_is_halved_exactly(halved: Halved):
    assert halved.result.verified.max_rel_error <= 1e-5 and halved.result.verified.rounded is not None
    assert not halved.result.frozen
    assert halved.result.kept["channels"] == pytest.approx(0.5, abs=0.01)
    assert halved.result.kept["macs"] < 0.3 and halved.result.kept["params"] < 0.3
    found, left = (list(sizes(analysed(onnx.load(path))).values()) for path in (halved.before, halved.after))
    assert found == list(GROUPS.values()) and left == [size // 2 for size in found]
    assert halved.after.stat().st_size / halved.before.stat().st_size < 0.75  # a small graph with many scales
    (y,) = open_session(halved.after).run(None, {"x": np.ones((2, 3, 16, 16), np.float32)})
    assert y.shape == (2, 10)


def test_whole_numbers_are_equal_to_the_bit(halved: Halved):
    """Closed channels hold the zero point, and do not widen the range of what is quantised as it comes."""
    if "pairs" not in halved.before.name:
        assert halved.result.verified.rounded == 0


def test_groups_are_called_after_the_weights_of_the_exporter(halved: Halved):
    names = list(sizes(analysed(onnx.load(halved.before))))
    assert names[:2] == list(GROUPS)[:2]
    assert names[2] == "hidden" or "dynamic per channel" in halved.before.name


# ------------------------------------------------------------------ scales and zero points


def params(**values: object) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in values.items()}


def cut(proto: onnx.ModelProto, **kept: list[int]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


RNG = np.random.default_rng(0)
WEIGHT = params(w=RNG.integers(-99, 99, (4, 3), np.int8), s=np.float32([1, 2, 3, 4]) / 100, z=np.int8([5, 6, 7, 8]))
PER_CHANNEL = """net (float[N,3] x) => (float[N,2] y) {
    d = DequantizeLinear<axis=0>(w, s, z)  h = Gemm<transB=1>(x, d)  y = MatMul(h, v)
}"""


def test_scales_and_zero_points_go_with_their_channel():
    proto = net(PER_CHANNEL, values=WEIGHT, v=(4, 2))
    slimmed = cut(proto, w=[1, 3])
    for name in ("w", "s", "z"):
        np.testing.assert_array_equal(constant(slimmed, name), WEIGHT[name][[1, 3]])


def test_weights_that_are_quantised_in_the_graph_lose_channels_as_well():
    """What quantisation-aware training exports."""
    text = """net (float[N,3] x) => (float[N,2] y) {
        a = QuantizeLinear<axis=1>(u, s, z)  b = DequantizeLinear<axis=1>(a, s, z)  h = MatMul(x, b)  y = MatMul(h, v)
    }"""
    values = params(s=np.float32([1, 2, 3, 4]) / 100, z=np.zeros(4, np.int8))
    proto = net(text, values=values, u=(3, 4), v=(4, 2))
    assert sizes(analysed(proto)) == {"u": 4}
    assert both_sides(proto, {"u": (1, 2)})[1].equal
    np.testing.assert_array_equal(constant(cut(proto, u=[1, 2]), "s"), values["s"][1:3])


def test_equal_biases_of_unrelated_layers_tie_nothing():
    text = """net (float[N,4] x) => (float[N,2] y) {
        d = DequantizeLinear(b, s)  e = Gemm(x, u, d)  f = Relu(e)  g = Gemm(f, v, d)  h = Relu(g)  y = Gemm(h, w)
    }"""
    values = params(b=np.int32([1, -2, 3, 4]), s=np.float32(0.1))
    proto = net(text, values=values, u=(4, 4), v=(4, 4), w=(4, 2))
    assert sizes(analysed(proto)) == {"u": 4, "v": 4}
    assert both_sides(proto, {"u": (0, 2), "v": (1,)})[1].equal


def test_a_channel_that_would_widen_the_range_is_closed_before_it():
    """DynamicQuantizeLinear takes its scale from all entries."""
    text = """net (float[N,3] x) => (float[N,5] y) {
        h = Gemm(x, u)  q, s, z = DynamicQuantizeLinear(h)  i = MatMulInteger(q, w, z)  c = Cast<to=1>(i)
        y = Mul(c, s)
    }"""
    u = np.float32(RNG.standard_normal((3, 4))) * np.float32([1, 1, 1, 1000])
    proto = net(text, values=params(u=u, w=RNG.integers(-99, 99, (4, 5), np.int8)))
    opened, closed = both_sides(proto, {"u": (0, 1, 2)})
    assert opened.equal and opened.rounded == 0
    assert closed.equal and closed.rounded == 0


def conv(x_zero: int, w_zero: int, op: str = "QLinearConv") -> onnx.ModelProto:
    text = """net (float[N,2,4,4] x) => (float[N,3,4,4] y) {
        a = QuantizeLinear(x, s, z)  b = QLinearConv(a, s, z, w1, s, wz, s, z)
        c = QLinearConv<pads=[1,1,1,1]>(b, s, z, w2, s, wz, s, z)  y = DequantizeLinear(c, s, z)
    }"""
    kernels = [RNG.integers(0, 255, shape, np.uint8) for shape in ((4, 2, 1, 1), (3, 4, 3, 3))]
    zeros = {"z": np.uint8(x_zero), "wz": np.uint8(w_zero)}
    return net(text, values=params(w1=kernels[0], w2=kernels[1], s=np.float32(0.05), **zeros))


@pytest.mark.parametrize(("x_zero", "w_zero"), [(0, 128), (128, 0), (131, 77)])
def test_a_closed_channel_holds_the_zero_point_whatever_it_is(x_zero: int, w_zero: int):
    opened, closed = both_sides(conv(x_zero, w_zero), {"w1": (0, 3)})
    assert opened.equal and opened.rounded == 0
    assert closed.equal and closed.rounded == 0


def test_a_form_that_holds_0_instead_is_found_out(monkeypatch: pytest.MonkeyPatch):
    def hold_zero(form: Form) -> None:
        is_open = form.op("Greater", "w", form.constant(0.0, onnx.TensorProto.FLOAT))
        held = form.op("Where", is_open, "x0", form.constant(0))
        form.result(form.op("QLinearConv", held, *form.inputs[1:], **form.node.raw.attrs))

    wrong = replace(FORMS["", "QLinearConv"], build=hold_zero)
    monkeypatch.setitem(FORMS, ("", "QLinearConv"), wrong)
    with pytest.raises(PlanError, match="nothing can be pruned"):  # once its only group is frozen
        slim(conv(131, 77), ratio=0.5, multiple_of=1)


def test_taking_the_gates_out_gives_the_op_back():
    proto = conv(131, 77)
    found = analysed(proto)
    assert gates.insert(found, {}) == 1
    assert [node.op for node in found.model.graph.nodes].count("GatedQLinearConv") == 1
    gates.strip(found.model)
    again = model.to_proto(found.model)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in proto.graph.node]
    assert not again.functions


def test_products_of_quantised_operands_count_as_multiply_accumulates():
    found = analysed(conv(0, 128))
    costs = CostModel(found)
    assert costs.total["macs"] == 16 * (4 * 2 + 3 * 4 * 9)
    assert costs.total["params"] == 4 * 2 + 3 * 4 * 9 + 1  # and one scale
    assert costs.exact(found.removed({"w1": np.asarray([0, 3])}))["macs"] == 0.5


@pytest.mark.parametrize("groups", [2, 4])
def test_as_many_groups_as_are_left(groups: int):
    text = f"""net (float[N,4,4,4] x) => (float[N,2,4,4] y) {{
        a = QuantizeLinear(x, s, z)  b = QLinearConv(a, s, z, w1, s, z, s, z)
        c = QLinearConv<group={groups}>(b, s, z, w2, s, z, s, z)
        d = QLinearConv(c, s, z, w3, s, z, s, z)  y = DequantizeLinear(d, s, z)
    }}"""
    shapes = {"w1": (4, 4, 1, 1), "w2": (8, 4 // groups, 1, 1), "w3": (2, 8, 1, 1)}
    kernels = {name: RNG.integers(0, 255, shape, np.uint8) for name, shape in shapes.items()}
    proto = net(text, values=params(**kernels, s=np.float32(0.05), z=np.uint8(128)))
    half = {name: tuple(range(0, size, 2)) for name, size in sizes(analysed(proto)).items()}
    closed = both_sides(proto, half)[1]
    assert closed.equal and closed.rounded == 0
    slimmed = cut(proto, **{name: list(kept) for name, kept in half.items()})
    left = next(helper.get_attribute_value(a) for a in slimmed.graph.node[2].attribute if a.name == "group")
    assert constant(slimmed, "w1").shape[0] == left * constant(slimmed, "w2").shape[1]
    assert constant(slimmed, "w2").size < constant(proto, "w2").size


# ------------------------------------------------------------------ blocks


BLOCKED = """net (float[N,3] x) => (float[N,2] y) {
    h = Gemm(x, u)  d = DequantizeLinear<axis=0, block_size=3>(w, s)  y = MatMul(h, d)
}"""


def blocked(rows: int) -> onnx.ModelProto:
    whole = RNG.integers(-8, 7, (rows, 2)).astype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4))
    scales = np.float32(RNG.uniform(0.1, 1, (-(-rows // 3), 2)))
    return net(BLOCKED, opset=21, values=params(w=whole, s=scales), u=(3, rows))


def test_entries_of_a_block_stay_or_go_together():
    proto = blocked(9)
    assert sizes(analysed(proto)) == {"u": 3}
    for kept, rows in (([0, 1], [0, 1, 2, 3, 4, 5]), ([1, 2], [3, 4, 5, 6, 7, 8]), ([0], [0, 1, 2])):
        slimmed = cut(proto, u=kept)
        np.testing.assert_array_equal(constant(slimmed, "s"), constant(proto, "s")[kept])
        np.testing.assert_array_equal(constant(slimmed, "w"), constant(proto, "w")[rows])
        assert both_sides(proto, {"u": tuple(kept)})[1].equal


def test_a_last_block_that_is_not_full_is_a_group_of_its_own_and_stays():
    proto = blocked(7)
    assert sizes(analysed(proto)) == {"u": 2, "u#2": 1}
    slimmed = cut(proto, u=[1])
    np.testing.assert_array_equal(constant(slimmed, "w"), constant(proto, "w")[3:])
    assert both_sides(proto, {"u": (1,)})[1].equal


def test_a_single_block_says_nothing_of_its_entries():
    proto = blocked(3)
    assert sizes(analysed(proto)) == {"u": 3}
    assert constant(cut(proto, u=[0, 2]), "w").shape == (2, 2)
    assert both_sides(proto, {"u": (0, 2)})[1].equal


def nbits(zero: bool) -> onnx.ModelProto:
    text = """net (float[N,3] x) => (float[N,4] y) {
        h = Gemm(x, u)  i = com.microsoft.MatMulNBits<K=48, N=6, bits=4, block_size=16>(h, w, s ZERO)  y = Gemm(i, v)
    }""".replace("ZERO", ", z" if zero else "")
    whole = {"w": RNG.integers(0, 255, (6, 3, 8), np.uint8), "s": np.float32(RNG.uniform(0.1, 1, 18))}
    packed = {"z": RNG.integers(0, 255, 12, np.uint8)} if zero else {}
    proto = net(text, values=params(**whole, **packed), u=(3, 48), v=(6, 4))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def test_packed_weights_lose_columns_and_whole_blocks():
    proto = nbits(zero=False)
    assert sizes(analysed(proto)) == {"u": 3, "w": 6}
    slimmed = cut(proto, u=[0, 2], w=[1, 3, 4])
    node = next(node for node in slimmed.graph.node if node.op_type == "MatMulNBits")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert (attributes["K"], attributes["N"]) == (32, 3)
    assert constant(slimmed, "w").shape == (3, 2, 8) and constant(slimmed, "s").shape == (6,)
    opened, closed = both_sides(proto, {"u": (0, 2), "w": (1, 3, 4)})
    assert opened.equal and closed.equal


def test_zero_points_in_one_byte_keep_their_blocks():
    proto = nbits(zero=True)
    found = analysed(proto)
    assert sizes(found) == {"w": 6}
    assert because(found, "h", 1) == {
        "MatMulNBits 'matmulnbits1': packs the zero points of several blocks into a byte"
    }
    assert both_sides(proto, {"w": (0, 5)})[1].equal


# ------------------------------------------------------------------ what stays


def test_a_product_behind_an_unknown_shape_loses_nothing():
    text = """net (uint8[N,3] x) => (float[N,2] y) {
        h = com.microsoft.QGemm(x, s, z, u, s, z)  i = com.microsoft.Unheard(h)
        j = com.microsoft.QGemm(i, s, z, v, s, z)  k = com.microsoft.QGemm(j, s, z, v, s, z)
        y = DequantizeLinear(k, s, z)
    }"""
    whole = {"u": RNG.integers(0, 255, (3, 4), np.uint8), "v": RNG.integers(0, 255, (4, 4), np.uint8)}
    proto = net(text, values=params(**whole, s=np.float32(0.1), z=np.uint8(3)))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert sizes(analysed(proto)) == {}


@pytest.mark.parametrize(
    ("op", "values", "reason"),
    [
        (
            "i = com.microsoft.QLinearSoftmax<axis=1, opset=13>(q, s, z, s, z)", {},
            "takes a statistic of whole numbers over them",
        ),
        (
            "i = QLinearMatMul(q, s, z, w, s, zs, s, z)",
            {"w": np.zeros((4, 4), np.uint8), "zs": np.zeros(3, np.uint8)},
            "has scales or a bias that do not fit its weight",
        ),
    ],
)  # fmt: skip
def test_why_channels_stay(op: str, values: dict[str, np.ndarray], reason: str):
    text = f"""net (float[N,3] x) => (float[N,2] y) {{
        h = Gemm(x, u)  q = QuantizeLinear(h, s, z)  {op}  d = DequantizeLinear(i, s, z)  y = Gemm(d, v)
    }}"""
    proto = net(text, values=params(**values, s=np.float32(0.1), z=np.uint8(3)), u=(3, 4), v=(4, 2))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = analysed(proto)
    assert not any("u" in name for name in sizes(found))
    assert any(text.endswith(reason) for text in because(found, "h", 1))
