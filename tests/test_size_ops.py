"""Sizes that are handed on as values: what follows them to where they end, and what freezes for them."""

import numpy as np
import onnx
import pytest
from test_law import both_sides
from text_nets import analysed, because, net, sizes


def resized(arithmetic: str, *, space: str = "8,8", opset: int = 13, **values: object) -> onnx.ModelProto:
    """Six channels a of a layer, resized to the sizes t, and a last layer."""
    text = f"""net (float[N,3,{space}] x) => (float[N,2,P,Q] y) {{
        a = Conv<strides=[2,2]>(x, w1)  {arithmetic}  h = Resize<mode="nearest">(a, , , t)  y = Conv(h, w2)
    }}"""
    given = {name: np.asarray(value) for name, value in values.items()}
    return net(text, opset=opset, values=given, w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))


LITERAL = "s = Shape(a)  f = Slice(s, none, two)  t = Concat<axis=0>(f, to)"
LIKE_X = (
    "s = Shape(a)  f = Slice(s, none, two)  r = Shape(x)  g = Slice(r, two, four)  t = Concat<axis=0>(f, g)"
)
CAST = "s = Shape(a)  f = Slice(s, none, two)  c = Cast<to=7>(f)  t = Concat<axis=0>(c, to)"
ONE_BY_ONE = """s = Shape(a)  n = Gather(s, zero)  u = Unsqueeze(n, none)  c = Gather(s, one)  v = Unsqueeze(c, none)
    t = Concat<axis=0>(u, v, to)"""
VALUES = {"none": [0], "two": [2], "four": [4], "to": [8, 8], "zero": 0, "one": 1}


@pytest.mark.parametrize("arithmetic", [LITERAL, LIKE_X, CAST, ONE_BY_ONE])
@pytest.mark.parametrize("space", ["8,8", "H,W"])
def test_channels_pass_a_resize_whose_sizes_are_computed_beside_their_number(arithmetic: str, space: str):
    proto = resized(arithmetic, space=space, **VALUES)
    assert sizes(analysed(proto)) == {"w1": 6}
    assert all(side.equal for side in both_sides(proto, {"w1": (0, 2, 3)}))


def test_channels_pass_a_crop_to_sizes_that_are_computed_beside_their_number():
    text = """net (float[N,3,8,8] x) => (float[N,2,P,Q] y) {
        a = Conv(x, w1)  s = Shape(a)  f = Slice(s, none, two)  t = Concat<axis=0>(f, to)  h = CenterCropPad(a, t)
        y = Conv(h, w2)
    }"""
    values = {name: np.asarray(VALUES[name]) for name in ("none", "two")} | {"to": np.asarray([6, 9])}
    proto = net(text, values=values, w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))
    assert sizes(analysed(proto)) == {"w1": 6}
    assert all(side.equal for side in both_sides(proto, {"w1": (0, 2, 3)}))


def test_channels_pass_a_spatial_transformer_that_reads_their_number():
    text = """net (float[N,3,8,8] x, float[N,2,3] theta) => (float[N,2,P,Q] y) {
        a = Conv(x, w1)  s = Shape(a)  g = AffineGrid(theta, s)  h = GridSample(a, g)  y = Conv(h, w2)
    }"""
    proto = net(text, opset=20, w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))
    assert sizes(analysed(proto)) == {"w1": 6}
    assert all(side.equal for side in both_sides(proto, {"w1": (0, 2, 3)}))


@pytest.mark.parametrize(
    "reading",
    [
        "c = Gather(s, one)",
        "c = Slice(s, none, two)",
        "t = Slice(s, none, two)  c = Concat<axis=0>(none, t)",
        "t = Concat<axis=0>(none, s)  c = Gather(t, two)",
        "c = Mul(s, s)",
    ],
)
def test_channels_that_are_counted_stay(reading: str):
    text = f"""net (float[N,3,8,8] x) => (float[N,2,8,8] y) {{
        a = Conv(x, w1)  s = Shape(a)  {reading}  f = Cast<to=1>(c)  m = ReduceMax<keepdims=0>(f)
        h = Div(a, m)  y = Conv(h, w2)
    }}"""
    values = {"none": np.asarray([0]), "one": np.asarray([1]), "two": np.asarray([2])}
    proto = net(text, values=values, w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))
    found = analysed(proto)
    folded = not any(node.op == "Shape" for node in found.nodes)
    assert folded or because(found, "w1", 0) == {"Shape 'shape1': hands its size on as a value"}


def test_the_number_of_entries_is_one_of_channels_too():
    text = """net (float[N,3,8,8] x) => (float[N,2,8,8] y) {
        a = Conv(x, w1)  s = Size(a)  f = Cast<to=1>(s)  h = Div(a, f)  y = Conv(h, w2)
    }"""
    found = analysed(net(text, w1=(6, 3, 1, 1), w2=(2, 6, 1, 1)))
    assert because(found, "w1", 0) == {"Size 'size1': it hands the number of entries on as a value"}
