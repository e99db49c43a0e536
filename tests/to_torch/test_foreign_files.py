"""Files that onnxruntime wrote: graphs it optimised, and int8 models of its quantiser."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from small import Array, draw, in_onnxruntime, in_torch, model

from onnxprune.to_torch import load, write_back


def optimised(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def ops(proto: onnx.ModelProto) -> set[str]:
    return {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in proto.graph.node}


WORDS, LENGTH, HIDDEN, HEADS = 11, 6, 8, 2


def bert() -> onnx.ModelProto:
    """Embeddings and one layer as exporters write them; ids, kinds and mask [2, 6], outputs [2, 6, 8]."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    bert (int64[2,6] ids, int64[2,6] kinds, int64[2,6] mask) => (float[2,6,8] y)
    <int64[1] one = {1}, int64[1] two = {2}, float ones = {1}, float far = {-10000}, float root = {2},
     int64[4] apart = {0, 0, 2, 4}, int64[3] together = {0, 0, 8}, int64[1,6] places = {0, 1, 2, 3, 4, 5},
     float half = {0.5}, float sqrt2 = {1.4142135}> {
        e1 = Gather(words, ids)  e2 = Gather(positions, places)  e3 = Gather(types, kinds)
        e4 = Add(e1, e3)  e5 = Add(e4, e2)
        x = LayerNormalization<axis: int = -1, epsilon: float = 1e-6>(e5, g0, s0)
        m1 = Unsqueeze(mask, one)  m2 = Unsqueeze(m1, two)  m3 = Cast<to: int = 1>(m2)
        m4 = Sub(ones, m3)  m5 = Mul(m4, far)
        q1 = MatMul(x, wq)  q2 = Add(bq, q1)  q3 = Reshape(q2, apart)  q = Transpose<perm: ints = [0, 2, 1, 3]>(q3)
        k1 = MatMul(x, wk)  k2 = Add(bk, k1)  k3 = Reshape(k2, apart)  k = Transpose<perm: ints = [0, 2, 3, 1]>(k3)
        v1 = MatMul(x, wv)  v2 = Add(bv, v1)  v3 = Reshape(v2, apart)  v = Transpose<perm: ints = [0, 2, 1, 3]>(v3)
        a1 = MatMul(q, k)  a2 = Div(a1, root)  a3 = Add(a2, m5)  a4 = Softmax<axis: int = 3>(a3)
        a5 = MatMul(a4, v)  a6 = Transpose<perm: ints = [0, 2, 1, 3]>(a5)  a7 = Reshape(a6, together)
        o1 = MatMul(a7, wo)  o2 = Add(bo, o1)  o3 = Add(o2, x)
        n = LayerNormalization<axis: int = -1, epsilon: float = 1e-6>(o3, g1, s1)
        f1 = MatMul(n, w1)  f2 = Add(b1, f1)  f3 = Div(f2, sqrt2)  f4 = Erf(f3)  f5 = Add(f4, ones)
        f6 = Mul(f2, f5)  f7 = Mul(f6, half)  f8 = MatMul(f7, w2)  f9 = Add(b2, f8)  f10 = Add(f9, n)
        y = LayerNormalization<axis: int = -1, epsilon: float = 1e-6>(f10, g2, s2)
    }"""
    shapes = {
        "words": (WORDS, HIDDEN), "positions": (LENGTH, HIDDEN), "types": (2, HIDDEN),
        **{f"{kind}{i}": (HIDDEN,) for kind in "gs" for i in range(3)},
        **{f"w{c}": (HIDDEN, HIDDEN) for c in "qkvo"}, **{f"b{c}": (HIDDEN,) for c in "qkvo"},
        "w1": (HIDDEN, 16), "b1": (16,), "w2": (16, HIDDEN), "b2": (HIDDEN,),
    }  # fmt: skip
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        numpy_helper.from_array(draw(*shape, seed=i) * 0.5, name) for i, (name, shape) in enumerate(shapes.items())
    )
    return proto


def test_a_text_model_that_onnxruntime_optimised_loads_and_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, WORDS, (2, LENGTH)),
        rng.integers(0, 2, (2, LENGTH)),
        np.array([[1] * LENGTH, [1, 1, 1, 1, 0, 0]]),
    ]
    made = optimised(bert(), tmp_path)
    fused = {"SkipLayerNormalization", "FusedMatMul", "Gelu"}
    assert {f"com.microsoft.{op}" for op in fused} <= ops(made)
    module = load(made)
    (ours,), (theirs,) = in_torch(module, *inputs), in_onnxruntime(bert(), *inputs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    module(*map(torch.from_numpy, inputs)).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert write_back(module, made) == made


def residual() -> onnx.ModelProto:
    """Convolutions with a residual sum, pooling and two layers of Gemm; x [2, 3, 8, 8], outputs [2, 5]."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], pads=[1, 1, 1, 1], name="first"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], name="second"),
        node("Add", ["c", "b"], ["d"], name="sum"),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "w2", "b2"], ["f"], strides=[2, 2], name="third"),
        node("LeakyRelu", ["f"], ["g"], alpha=0.1),
        node("AveragePool", ["g"], ["h"], kernel_shape=[2, 2], name="pool"),
        node("Concat", ["h", "h"], ["i"], axis=1, name="joined"),
        node("GlobalAveragePool", ["i"], ["j"], name="mean"),
        node("Flatten", ["j"], ["k"]),
        node("Gemm", ["k", "w3", "b3"], ["l"], transB=1, name="hidden"),
        node("Sigmoid", ["l"], ["m"], name="sigmoid"),
        node("Gemm", ["m", "w4", "b4"], ["n"], transB=1, name="head"),
        node("Softmax", ["n"], ["y"], axis=1, name="softmax"),
    ]
    shapes = {"w0": (6, 3, 3, 3), "w1": (6, 6, 3, 3), "w2": (4, 6, 3, 3), "w3": (7, 8), "w4": (5, 7)}
    values = {n: draw(*s, seed=i) * np.float32(0.3) for i, (n, s) in enumerate(shapes.items())}
    values |= {f"b{n[1]}": draw(s[0], seed=i) * np.float32(0.1) for i, (n, s) in enumerate(shapes.items())}
    return model(nodes, {"x": [2, 3, 8, 8]}, ["y"], values)


IMAGES = draw(2, 3, 8, 8)


def test_an_image_model_that_onnxruntime_optimised_loads_and_trains(tmp_path: Path) -> None:
    made = optimised(residual(), tmp_path)
    assert {"com.microsoft.FusedConv", "com.microsoft.FusedGemm"} & ops(made)
    module = load(made)
    (ours,), (theirs,) = in_torch(module, IMAGES), in_onnxruntime(residual(), IMAGES)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    module(torch.from_numpy(IMAGES))[:, 0].sum().backward()
    assert all(p.grad is not None for p in module.parameters())


class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter([IMAGES, draw(2, 3, 8, 8, seed=1)])

    def get_next(self) -> dict[str, Array] | None:
        image = next(self.left, None)
        return None if image is None else {"x": image}


def statically(folder: Path, form: quantization.QuantFormat, **facts: object) -> onnx.ModelProto:
    onnx.save(residual(), folder / "plain.onnx")
    quantization.quantize_static(
        folder / "plain.onnx", folder / "int8.onnx", Images(), quant_format=form, reduce_range=True, **facts
    )
    return onnx.load(folder / "int8.onnx")


Q = quantization.QuantType
FORMS = [
    (quantization.QuantFormat.QDQ, {}),
    (quantization.QuantFormat.QDQ, {"activation_type": Q.QUInt8, "weight_type": Q.QUInt8}),
    (quantization.QuantFormat.QDQ, {"activation_type": Q.QUInt16, "weight_type": Q.QInt8}),
    (quantization.QuantFormat.QDQ, {"per_channel": True}),
    (quantization.QuantFormat.QOperator, {"activation_type": Q.QUInt8, "weight_type": Q.QUInt8}),
    (quantization.QuantFormat.QOperator, {"per_channel": True, "activation_type": Q.QUInt8}),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("form", "facts"), FORMS, ids=str)
def test_a_statically_quantised_model_loads_and_passes_gradients(
    form: quantization.QuantFormat, facts: dict[str, object], tmp_path: Path
) -> None:
    made = statically(tmp_path, form, **facts)
    module = load(made, straight_through=True)
    x = torch.from_numpy(IMAGES).requires_grad_()
    y = module(x)
    (theirs,) = in_onnxruntime(made, IMAGES, optimized=False)
    np.testing.assert_allclose(y.detach(), theirs, atol=2 / 256)
    torch.testing.assert_close(load(made)(x.detach()), y.detach(), rtol=0, atol=0)
    y[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert write_back(module, made) == made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_optimised_int8_model_loads(tmp_path: Path) -> None:
    """Its QuantizeLinear and DequantizeLinear have become part of the ops between them."""
    made = optimised(statically(tmp_path, quantization.QuantFormat.QDQ, activation_type=Q.QUInt8), tmp_path)
    assert {"QLinearConv", "com.microsoft.QLinearAdd", "com.microsoft.QGemm"} <= ops(made)
    (ours,), (theirs,) = in_torch(load(made), IMAGES), in_onnxruntime(made, IMAGES)
    np.testing.assert_allclose(ours, theirs, atol=2 / 256)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_text_model_with_quantised_weights_loads(tmp_path: Path) -> None:
    onnx.save(bert(), tmp_path / "plain.onnx")
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    made = onnx.load(tmp_path / "int8.onnx")
    inputs = [np.zeros((2, LENGTH), np.int64), np.ones((2, LENGTH), np.int64), np.ones((2, LENGTH), np.int64)]
    for proto in (made, optimised(made, tmp_path)):
        (ours,), (theirs,) = in_torch(load(proto), *inputs), in_onnxruntime(proto, *inputs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [Q.QUInt8, Q.QInt8])
def test_a_dynamically_quantised_model_loads_and_passes_gradients(kind: Q, tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "plain.onnx")
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "int8.onnx", weight_type=kind)
    made = onnx.load(tmp_path / "int8.onnx")
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= ops(made)
    for proto in (made, optimised(made, tmp_path)):
        x = torch.from_numpy(IMAGES).requires_grad_()
        y = load(proto, straight_through=True)(x)
        np.testing.assert_allclose(y.detach(), in_onnxruntime(proto, IMAGES)[0], rtol=1e-3, atol=1e-4)
        y[:, 0].sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0


def test_4_bit_activations_of_an_older_opset_keep_their_range() -> None:
    """onnxruntime's quantiser puts them into its own domain, whose types ONNX alone cannot infer."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain="com.microsoft"),
    ]
    held = [numpy_helper.from_array(np.float32(1), "s"), helper.make_tensor("z", TensorProto.INT4, [], [1])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    module = load(helper.make_model(graph, opset_imports=opsets))
    assert module(torch.tensor([100.0, -100, 2, 3])).tolist() == [6, -9, 2, 3]
