"""Convolutions of the newest opsets."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.cost import CostModel
from onnxprune.plan import Plan

CAUSAL = """net (float[N,3,7] x) => (float[N,2,7] y, float[N,2,2] z) {{
    a = Conv(x, w1)  b = Conv(x, w2)  p = Slice(b, none, two, two)
    h, s = {domain}CausalConvWithState<activation="silu">(a, w, bias, p)  y = Conv(h, w3)  z = Conv(s, w3)
}}"""


def causal(domain: str) -> onnx.ModelProto:
    """Six channels, whose past comes from a layer of its own."""
    values = {"none": np.asarray([0]), "two": np.asarray([2])}
    shapes = {"w1": (6, 3, 1), "w2": (6, 3, 1), "w": (6, 1, 3), "bias": (6,), "w3": (2, 6, 1)}
    prefix = f"{domain}." if domain else ""
    proto = net(CAUSAL.format(domain=prefix), opset=18 if domain else 27, values=values, **shapes)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_a_causal_convolution_passes_channels_with_their_past(domain: str):
    found = analysed(causal(domain))
    assert sizes(found) == {"w1": 6}
    assert {member.tensor for member in found.groups[0].members} >= {"a", "p", "h", "s", "w", "bias", "w3"}
    layers = 7 * 3 * (6 + 6) + 7 * 6 * 2 + 2 * 6 * 2
    assert CostModel(found).total["macs"] == pytest.approx(layers + 7 * 6 * 3)


@pytest.mark.parametrize(
    "given", ["channels_last = 1", "state_channels_last = 1", "input_channels = 6", "state_length = 2"]
)
def test_a_causal_convolution_of_another_layout_is_frozen(given: str):
    """As many channels as positions: no shape tells that they have changed places."""
    text = f"""net (float[N,3,6] x) => (float[N,2,6] y) {{
        a = Conv(x, w1)  h = com.microsoft.CausalConvWithState<{given}>(a, w)  y = Conv(h, w3)
    }}"""
    proto = net(text, w1=(6, 3, 1), w=(6, 1, 3), w3=(2, 6, 1))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = analysed(proto)
    assert sizes(found) == {}
    (told,) = because(found, "a", 1)
    assert f"its channels or states lie otherwise ({given.replace('=', 'is')})" in told


def test_a_causal_convolution_keeps_the_law():
    assert all(side.equal for side in both_sides(causal("com.microsoft"), {"w1": (0, 2, 5)}))


def test_a_gated_unit_of_one_op_ties_its_halves():
    """SwiGLU of opset 28, which onnxruntime does not run: held against onnx's own evaluation."""
    text = """net (float[N,3] x) => (float[N,2] y) {
        a = MatMul(x, w1)  b = MatMul(x, w2)  h = SwiGLU(a, b)  y = MatMul(h, w3)
    }"""
    proto = net(text, opset=28, w1=(3, 6), w2=(3, 6), w3=(6, 2))
    found = analysed(proto)
    assert sizes(found) == {"w1": 6}
    kept = np.asarray([1, 4])
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    rewrite.apply(found, Plan({"w1": kept}))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    (ours,) = ReferenceEvaluator(model.to_proto(found.model)).run(None, {"x": x})
    a, b = x @ weights["w1"][:, kept], x @ weights["w2"][:, kept]
    np.testing.assert_allclose(ours, (a / (1 + np.exp(-a)) * b) @ weights["w3"][kept], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel", "pads", "passes"), [(1, 0, True), (3, 1, False), (1, 1, False)])
def test_positions_pass_where_each_is_computed_from_itself(kernel: int, pads: int, passes: bool):
    """Tokens are mixed as the channels of a convolution along their features (CoaT)."""
    width = 6 + 2 * pads - kernel + 1
    proto = net(
        f"""net (float[N,4] x) => (float[N,2] y) {{
            a = MatMul(x, w1)  b = MatMul(x, w2)  a1 = Unsqueeze(a, one)  b1 = Unsqueeze(b, one)
            c = Concat<axis=1>(a1, b1)  d = Conv<pads=[{pads},{pads}]>(c, w)  s = Squeeze(d, one)  y = MatMul(s, w3)
        }}""",
        values={"one": np.asarray([1])},
        w1=(4, 6),
        w2=(4, 6),
        w=(1, 2, kernel),
        w3=(width, 2),
    )
    assert sizes(analysed(proto)) == ({"w1": 6} if passes else {})
    for checked in both_sides(proto, {"w1": (1, 4)} if passes else {}):
        assert checked.equal


@pytest.mark.parametrize("op", ["AveragePool<kernel_shape=[2,1], strides=[2,1]>", "MaxPool<kernel_shape=[2,1]>"])
def test_a_pool_over_tokens_lets_their_features_pass(op: str):
    """Funnel transformers shorten their sentence that way."""
    proto = net(
        f"""net (float[N,4,5] x) => (float[N,T,2] y) {{
            a = MatMul(x, w1)  u = Unsqueeze(a, one)  p = {op}(u)  s = Squeeze(p, one)  y = MatMul(s, w2)
        }}""",
        values={"one": np.asarray([1])},
        w1=(5, 6),
        w2=(6, 2),
    )
    assert sizes(analysed(proto)) == {"w1": 6}
    for checked in both_sides(proto, {"w1": (1, 4)}):
        assert checked.equal


def test_a_convolution_over_tokens_lets_their_features_pass():
    proto = net(
        """net (float[N,4,5] x) => (float[N,3,2] y) {
            a = MatMul(x, w1)  u = Unsqueeze(a, one)  p = Conv(u, w)  s = Squeeze(p, one)  y = MatMul(s, w2)
        }""",
        values={"one": np.asarray([1])},
        w1=(5, 6),
        w=(1, 1, 2, 1),
        w2=(6, 2),
    )
    assert sizes(analysed(proto)) == {"w1": 6}
    for checked in both_sides(proto, {"w1": (1, 4)}):
        assert checked.equal
