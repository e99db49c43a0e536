"""Queries, keys and values of one layer have channels of their own, however they are taken apart."""

import numpy as np
import onnx
import pytest
from strategies import random_plan
from test_law import both_sides
from text_nets import analysed, net, sizes

from onnxprune import model
from onnxprune.prepare import prepare
from onnxprune.verify import verify

PICKED = {
    "Gather": "q = Gather<axis=0>(t, c0)  k = Gather<axis=0>(t, c1)  v = Gather<axis=0>(t, c2)",
    "Gather of one entry": """q1 = Gather<axis=0>(t, zero)  k1 = Gather<axis=0>(t, one)  v1 = Gather<axis=0>(t, last)
        q = Squeeze(q1, zero)  k = Squeeze(k1, zero)  v = Squeeze(v1, zero)""",
    "Slice": """q1 = Slice(t, zero, one, zero)  k1 = Slice(t, one, two, zero)  v1 = Slice(t, last, most, zero, one)
        q = Squeeze(q1, zero)  k = Squeeze(k1, zero)  v = Squeeze(v1, zero)""",
    "Split": """q1, k1, v1 = Split<axis=0>(t, thirds)
        q = Squeeze(q1, zero)  k = Squeeze(k1, zero)  v = Squeeze(v1, zero)""",
}
NUMBERS = {
    "c0": np.array(0), "c1": np.array(1), "c2": np.array(-1), "zero": np.array([0]), "one": np.array([1]),
    "two": np.array([2]), "last": np.array([-1]), "most": np.array([2**31]), "thirds": np.array([1, 1, 1]),
    "five": np.array([0, 0, 3, 2, 4]), "flat": np.array([0, 0, -1]),
}  # fmt: skip


def packed(picked: str, values: dict[str, np.ndarray] | None = None, *, opset: int = 17) -> onnx.ModelProto:
    """timm's attention: (N, T, 3 h d) to (N, T, 3, h, d) to (3, N, h, T, d)."""
    text = f"""net (float[N,5,6] x) => (float[N,5,2] y) {{
        qkv = MatMul(x, w)  b = Add(qkv, bias)  r = Reshape(b, five)  t = Transpose<perm=[2,0,3,1,4]>(r)
        {picked}
        kt = Transpose<perm=[0,1,3,2]>(k)  s = MatMul(q, kt)  p = Softmax(s)  o = MatMul(p, v)
        ot = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(ot, flat)  y = MatMul(f, wo)
    }}"""
    return net(text, opset=opset, values=NUMBERS | (values or {}), w=(6, 24), bias=(24,), wo=(8, 2))


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = model.load(proto)
    prepare(loaded)
    return model.to_proto(loaded)


@pytest.mark.parametrize("picked", PICKED.values(), ids=PICKED)
def test_heads_channels_of_keys_and_channels_of_values_are_groups_of_their_own(picked: str):
    proto = packed(picked)
    assert sorted(sizes(analysed(proto)).values()) == [2, 4, 4]
    for seed in range(3):
        opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
        assert opened.equal and closed.equal


@pytest.mark.parametrize("picked", PICKED.values(), ids=PICKED)
def test_each_part_is_sliced_off_and_nothing_is_computed_otherwise(picked: str):
    plain = prepared(packed(picked))
    assert [node.op_type for node in plain.graph.node].count("Slice") == 3
    assert verify(packed(picked), plain).equal
    assert prepared(plain) == plain


def test_heads_outside_of_the_parts_stay_in_one_value():
    """(N, T, h 3 d): a part is no stretch of the axis, and gathered entry by entry it would take longer."""
    proto = packed(PICKED["Gather"], {"five": np.array([0, 0, 2, 3, 4])})
    proto.graph.node[3].attribute[0].ints[:] = [3, 0, 2, 1, 4]
    assert "Slice" not in {node.op_type for node in prepared(proto).graph.node}
    assert sorted(sizes(analysed(proto)).values()) == [2, 4]


def test_a_value_that_is_read_as_a_whole_too_stays_packed():
    proto = packed(
        PICKED["Gather"].replace("q = Gather<axis=0>(t, c0)", "u = Relu(t)  q = Gather<axis=0>(u, c0)")
    )
    assert "Slice" not in {node.op_type for node in prepared(proto).graph.node}


def test_old_opsets_slice_by_attributes():
    text = """net (float[N,4] x) => (float[N,2] y) {
        p = MatMul(x, w)  r = Reshape(p, parts)  a = Gather<axis=1>(r, c0)  b = Gather<axis=1>(r, c1)  c = Mul(a, b)
        y = MatMul(c, wo)
    }"""
    values = NUMBERS | {"parts": np.array([0, 2, 3])}
    proto = net(text, opset=9, values=values, w=(4, 6), wo=(3, 2))
    plain = prepared(proto)
    assert [node.op_type for node in plain.graph.node] == ["MatMul", "Slice", "Slice", "Mul", "MatMul"]
    assert verify(proto, plain).equal


@pytest.mark.parametrize("batch", ["1", "N"])
def test_every_other_channel_is_taken_from_an_image_before_it_is_cut(batch: str):
    """The shuffle of ShuffleNetV2 as its authors wrote it: (N C/2, 2, HW), turned, and both halves picked out."""
    text = f"""net (float[{batch},3,4,5] x) => (float[{batch},2,4,5] y) {{
        a = Conv(x, w1)  r = Reshape(a, pairs)  t = Transpose<perm=[1,0,2]>(r)  h = Reshape(t, halves)
        b = Gather<axis=0>(h, c0)  c = Gather<axis=0>(h, c1)  d = Conv(c, w2)  e = Concat<axis=1>(b, d)  y = Conv(e, w3)
    }}"""
    values = {name: NUMBERS[name] for name in ("c0", "c1")}
    values |= {"pairs": np.array([-1, 2, 20]), "halves": np.array([2, -1, 3, 4, 5])}
    proto = net(text, values=values, w1=(6, 3, 1, 1), w2=(4, 3, 1, 1), w3=(2, 7, 1, 1))
    plain = prepared(proto)
    assert [node.op_type for node in plain.graph.node] == ["Conv", "Slice", "Slice", "Conv", "Concat", "Conv"]
    assert verify(proto, plain).equal
    assert prepared(plain) == plain
    assert sorted(sizes(analysed(proto)).values()) == [3, 3, 4]
    for seed in range(3):
        opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
        assert opened.equal and closed.equal


def test_every_other_channel_of_tokens_stays_where_it_is():
    """Entry by entry it would take longer."""
    text = """net (float[N,4,3] x) => (float[N,4,2] y) {
        a = MatMul(x, w1)  r = Reshape(a, pairs)  b = Gather<axis=3>(r, c0)  c = Gather<axis=3>(r, c1)  d = Mul(b, c)
        y = MatMul(d, w2)
    }"""
    values = {name: NUMBERS[name] for name in ("c0", "c1")} | {"pairs": np.array([0, 0, 3, 2])}
    proto = net(text, values=values, w1=(3, 6), w2=(3, 2))
    assert "Slice" not in {node.op_type for node in prepared(proto).graph.node}
