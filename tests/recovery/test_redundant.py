"""Networks of which half is superfluous: each channel is there twice, and what reads it has its weight in two parts."""

import numpy as np
import onnx
import pytest
from text_nets import net

from onnxprune import slim
from onnxprune.calibration import Calibration

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_each_time() -> None:
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def drawn(*shape: int, fan_in: int) -> np.ndarray:
    return RNG.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)


def twice(values: np.ndarray, made: int | None = None, read: int | None = None) -> np.ndarray:
    """The weight with what it makes, on axis `made`, repeated, and what it reads, on axis `read`, shared out."""
    if made is not None:
        values = np.repeat(values, 2, axis=made)
    if read is not None:
        part = RNG.uniform(0.2, 0.8, values.shape).astype(np.float32)
        values = np.stack([values * part, values * (1 - part)], axis=read + 1)
        values = values.reshape(*values.shape[:read], -1, *values.shape[read + 2 :])
    return values


def chain() -> onnx.ModelProto:
    text = """net (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, u, ub)  b = Relu(a)  c = Conv<strides=[2,2]>(b, v, vb)  d = Relu(c)
        e = GlobalAveragePool(d)  f = Flatten(e)  y = Gemm<transB=1>(f, w, wb) }"""
    values = {
        "u": twice(drawn(6, 3, 3, 3, fan_in=27), 0), "ub": twice(drawn(6, fan_in=9), 0),
        "v": twice(drawn(8, 6, 3, 3, fan_in=54), 0, 1), "vb": twice(drawn(8, fan_in=9), 0),
        "w": twice(drawn(5, 8, fan_in=1), read=1), "wb": drawn(5, fan_in=9),
    }  # fmt: skip
    return net(text, values=values)


def residual() -> onnx.ModelProto:
    text = """net (float[N,3,8,8] x) => (float[N,5] y) {
        s = Conv<pads=[1,1,1,1]>(x, u, ub)
        a = Conv<pads=[1,1,1,1]>(s, v, vb)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w, wb)
        n = BatchNormalization(c, gamma, beta, mean, var)  t = Add(s, n)  r = Relu(t)
        e = GlobalAveragePool(r)  f = Flatten(e)  y = Gemm<transB=1>(f, z) }"""
    values = {
        "u": twice(drawn(6, 3, 3, 3, fan_in=27), 0), "ub": twice(drawn(6, fan_in=9), 0),
        "v": twice(drawn(8, 6, 3, 3, fan_in=54), 0, 1), "vb": twice(drawn(8, fan_in=9), 0),
        "w": twice(drawn(6, 8, 3, 3, fan_in=72), 0, 1), "wb": twice(drawn(6, fan_in=9), 0),
        "z": twice(drawn(5, 6, fan_in=1), read=1), "mean": twice(drawn(6, fan_in=9), 0),
        "gamma": twice(np.float32([1, 0.8, 1.2, 0.9, 1.1, 0.7]), 0), "beta": twice(drawn(6, fan_in=9), 0),
        "var": twice(np.float32([1, 1.2, 0.8, 0.9, 1.1, 1.3]), 0),
    }  # fmt: skip
    return net(text, values=values)


def depthwise() -> onnx.ModelProto:
    text = """net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv(x, u)  b = Relu(a)  c = Conv<group=12,pads=[1,1,1,1]>(b, v, vb)  d = Relu(c)  y = Conv(d, w, wb) }"""
    values = {
        "u": twice(drawn(6, 3, 1, 1, fan_in=3), 0), "v": twice(drawn(6, 1, 3, 3, fan_in=9), 0),
        "vb": twice(drawn(6, fan_in=9), 0), "w": twice(drawn(4, 6, 1, 1, fan_in=6), read=1), "wb": drawn(4, fan_in=9),
    }  # fmt: skip
    return net(text, values=values)


def grouped() -> onnx.ModelProto:
    text = """net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv(x, u)  b = Relu(a)  y = Conv<group=2,pads=[1,1,1,1]>(b, v, vb) }"""
    values = {
        "u": twice(drawn(8, 3, 1, 1, fan_in=3), 0), "v": twice(drawn(4, 4, 3, 3, fan_in=36), read=1),
        "vb": drawn(4, fan_in=9),
    }  # fmt: skip
    return net(text, values=values)


def transposed() -> onnx.ModelProto:
    text = """net (float[N,3,5,5] x) => (float[N,2,H,W] y) {
        a = ConvTranspose<strides=[2,2]>(x, u, ub)  b = Relu(a)
        y = ConvTranspose<strides=[2,2],pads=[1,1,1,1],output_padding=[1,1]>(b, v, vb) }"""
    values = {
        "u": twice(drawn(3, 6, 3, 3, fan_in=27), 1), "ub": twice(drawn(6, fan_in=9), 0),
        "v": twice(drawn(6, 2, 3, 3, fan_in=54), read=0), "vb": drawn(2, fan_in=9),
    }  # fmt: skip
    return net(text, values=values)


def mlp() -> onnx.ModelProto:
    text = """net (float[N,7,5] x) => (float[N,7,4] y) {
        a = MatMul(x, u)  b = Add(a, ub)  c = Relu(b)  d = MatMul(c, v)  e = Tanh(d)
        f = MatMul(e, w)  y = Add(wb, f) }"""
    values = {
        "u": twice(drawn(5, 6, fan_in=5), 1), "ub": twice(drawn(6, fan_in=9), 0),
        "v": twice(drawn(6, 8, fan_in=12), 1, 0), "w": twice(drawn(8, 4, fan_in=8), read=0),
        "wb": drawn(1, 1, 4, fan_in=9),
    }  # fmt: skip
    return net(text, values=values)


def attention() -> onnx.ModelProto:
    text = """net (float[N,7,5] x) => (float[N,7,4] y) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  t = Transpose<perm=[0,2,1]>(k)  s = MatMul(q, t)  p = Softmax<axis=-1>(s)
        v = MatMul(x, values)  h = MatMul(p, v)  y = MatMul(h, out) }"""
    values = {
        "wq": drawn(5, 3, fan_in=5), "wk": drawn(5, 3, fan_in=5), "values": twice(drawn(5, 4, fan_in=5), 1),
        "out": twice(drawn(4, 4, fan_in=4), read=0),
    }  # fmt: skip
    return net(text, values=values)


def gated_units() -> onnx.ModelProto:
    """Of a feed-forward block whose hidden units are products of two, as in Llama."""
    text = """net (float[N,7,5] x) => (float[N,7,5] y) {
        a = MatMul(x, gate)  b = Sigmoid(a)  c = Mul(a, b)  d = MatMul(x, up)  e = Mul(c, d)  f = MatMul(e, down)
        y = Add(x, f) }"""
    values = {
        "gate": twice(drawn(5, 8, fan_in=5), 1), "up": twice(drawn(5, 8, fan_in=5), 1),
        "down": twice(drawn(8, 5, fan_in=8), read=0),
    }  # fmt: skip
    return net(text, values=values)


NETS = {
    "chain": (chain, (3, 8, 8), {}),
    "residual": (residual, (3, 8, 8), {}),
    "depthwise": (depthwise, (3, 8, 8), {}),
    "grouped": (grouped, (3, 8, 8), {}),
    "transposed": (transposed, (3, 5, 5), {}),
    "mlp": (mlp, (7, 5), {}),
    "attention": (attention, (7, 5), {"only": ("values",)}),
    "gated units": (gated_units, (7, 5), {}),
}


@pytest.mark.parametrize("name", NETS)
def test_the_superfluous_half_goes_and_nothing_is_lost(name: str):
    make, shape, options = NETS[name]
    x = np.random.default_rng(1).normal(size=(1024, *shape)).astype(np.float32)
    result = slim(make(), ratio=0.5, multiple_of=1, calibration=Calibration({"x": x}), distill=0, **options)
    assert result.kept["channels"] <= 0.76 if "only" in options else result.kept["channels"] == 0.5
    assert result.recovery["cut"] > 1e-2
    assert result.recovery["repaired"] < min(2e-5, 5e-5 * result.recovery["cut"])  # what the ridge leaves
