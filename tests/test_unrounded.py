"""What a quantised model computes without rounding."""

import numpy as np
import onnx
import pytest
from blocks import BLOCKS
from onnx_text import RELU
from strategies import random_model
from text_nets import net

from onnxprune.compare.unrounded import unrounded
from onnxprune.errors import ModelError
from onnxprune.verify import verify

PAIR = """net (float[N,4] x) => (float[N,4] y) {
    s = Add(x, c)  q = QuantizeLinear(s, scale, zero)  d = DequantizeLinear(q, scale, zero)  y = Identity(d)
}"""


def pair(c: float, scale: float = 0.1, zero: np.integer | None = None) -> onnx.ModelProto:
    values = {"c": np.float32(c), "scale": np.float32(scale), "zero": np.uint8(3) if zero is None else zero}
    return net(PAIR, values={name: np.asarray(value) for name, value in values.items()})


FEED = {"x": np.linspace(0, 0.3, 4, dtype=np.float32)[None]}


def test_a_last_bit_that_flips_a_rounding_counts_for_nothing():
    """0.05 is half a step."""
    found = verify(pair(0.05), pair(0.0500001), feeds=[FEED])
    assert found.equal and found.max_rel_error < 1e-5
    assert found.rounded is not None and found.rounded > 0.1
    assert found.to_json()["rounded"] == found.rounded


def test_a_difference_below_the_step_is_found():
    found = verify(pair(0.02), pair(0.03), feeds=[FEED])
    assert not found.equal and found.rounded == 0


def test_a_model_that_rounds_nothing_has_no_such_form():
    assert unrounded(RELU) is None
    assert "rounded" not in verify(RELU, RELU).to_json()


@pytest.mark.parametrize(("zero", "limits"), [(np.uint8(3), (-0.3, 25.2)), (np.int8(3), (-13.1, 12.4))])
def test_the_limits_of_the_type_hold(zero: np.integer, limits: tuple[float, float]):
    """They are what is left of a Relu that the quantiser took for granted."""
    real = unrounded(pair(0, zero=zero))
    assert real is not None
    wide = np.linspace(-50, 50, 4, dtype=np.float32)[None]
    clipped = net(
        "net (float[N,4] x) => (float[N,4] y) { y = Clip(x, low, high) }",
        values={name: np.asarray(limit, np.float32) for name, limit in zip(("low", "high"), limits, strict=True)},
    )
    assert verify(clipped, real, feeds=[{"x": wide}]).max_rel_error < 1e-6


def test_a_constant_stays_rounded():
    """A weight that is quantised and dequantised in the graph is the same in both models, to the bit."""
    text = """net (float[N,4] x) => (float[N,4] y) {
        q = QuantizeLinear(c, scale, zero)  d = DequantizeLinear(q, scale, zero)  m = Mul(x, d)
        p = QuantizeLinear(m, scale, zero)  y = DequantizeLinear(p, scale, zero)
    }"""
    values = {"c": np.float32([0.02, 0.04, 0.06, 0.08]), "scale": np.float32(0.1), "zero": np.int8(0)}
    real = unrounded(net(text, values={name: np.asarray(value) for name, value in values.items()}))
    rounded = net("net (float[N,4] x) => (float[N,4] y) { y = Mul(x, c) }", values={"c": np.float32([0, 0, 0.1, 0.1])})
    assert real is not None and verify(rounded, real).max_rel_error < 1e-6


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("axis", [1, -2])
def test_scales_along_an_axis_are_laid_out_at_run_time(axis: int, opset: int):
    text = f"""net (float[N,2,3] x) => (float[N,2,3] y) {{
        q = QuantizeLinear<axis={axis}>(x, scale, zero)  y = DequantizeLinear<axis={axis}>(q, scale, zero)
    }}"""
    values = {"scale": np.float32([0.01, 0.03]), "zero": np.uint8([120, 130])}
    proto = net(text, opset=opset, values=values)
    real = unrounded(proto)
    assert real is not None
    assert verify(proto, real, feeds=[{"x": np.full((1, 2, 3), 0.3, np.float32)}]).max_rel_error < 1e-6
    assert 1e-3 < verify(proto, real).max_rel_error < 0.1


def test_bodies_are_followed():
    text = """net (float[N,4] x, bool c) => (float[N,4] y) {
        q = QuantizeLinear(x, scale, zero)
        d = If(c) <then_branch = yes () => (float[N,4] t) { t = DequantizeLinear(q, scale, zero) },
                   else_branch = no () => (float[N,4] e) { a = DequantizeLinear(q, scale, zero)  e = Neg(a) }>
        y = Identity(d)
    }"""
    proto = net(text, values={"scale": np.asarray(0.5, np.float32), "zero": np.asarray(128, np.uint8)})
    real = unrounded(proto)
    assert real is not None
    feed = {"x": np.float32([[2.25, 20.5, 40.8, -31.0]])}
    for c in (True, False):
        given = [{**feed, "c": np.asarray(c)}]
        whole = net("net (float[N,4] x, bool c) => (float[N,4] y) { z = Neg(x)  y = Where(c, x, z) }")
        assert verify(whole, real, feeds=given).max_rel_error < 1e-6


QUANTISED = [name for name, block in BLOCKS.items() if block.build.__module__ == "blocks.quantize"]


@pytest.mark.parametrize("block", QUANTISED)
def test_without_rounding_a_model_computes_nearly_the_same(block: str):
    """Were the real form of an op wrong, the two would be far apart."""
    for seed in range(3):
        proto = random_model(seed, including=block, most=1)
        real = unrounded(proto)
        if real is None:
            assert block == "MatMul of a weight dequantised in blocks"
            continue
        try:
            assert verify(proto, real).max_rel_error < 0.15, seed
        except ModelError as reason:
            pytest.fail(f"seed {seed}: {reason}")
