"""Tile: how often an axis is repeated is read off its sizes."""

import numpy as np
import pytest
from test_law import both_sides
from text_nets import analysed, because, net, sizes


@pytest.mark.parametrize(
    "op",
    [
        "b = Gather(s, none)  r = Concat<axis=0>(b, one, one)  h = Tile(t, r)",
        "b = Gather(s, none)  r = Concat<axis=0>(b, two, one)  h = Tile(t, r)",
    ],
    ids=["for each sample", "twice, too"],
)
def test_channels_pass_a_tile_that_repeats_the_batch(op: str):
    """A learnt token for each sample, as `repeat(len(x), 1, 1)` is exported."""
    text = f"""net (float[N,3,4] x) => (float[A,B,C] y) {{
        s = Shape(x)  t = MatMul(token, w1)  {op}  f = MatMul(x, w2)  a = ReduceSum<keepdims=1>(f, one)
        c = Add(a, h)  y = MatMul(c, w3)
    }}"""
    values = {"none": np.asarray([0]), "one": np.asarray([1]), "two": np.asarray([2])}
    proto = net(text, values=values, token=(1, 1, 5), w1=(5, 6), w2=(4, 6), w3=(6, 2))
    found = analysed(proto)
    assert list(sizes(found).values()) == [6]
    assert all(side.equal for side in both_sides(proto, {next(iter(sizes(found))): (1, 2, 5)}))


def test_an_axis_that_is_repeated_as_often_as_there_are_samples_stays():
    text = """net (float[N,3] x) => (float[A,B] y) {
        s = Shape(x)  a = MatMul(x, w)  b = Gather(s, none)  r = Concat<axis=0>(one, b)  h = Tile(a, r)
        y = ReduceSum<keepdims=1>(h, one)
    }"""
    found = analysed(net(text, values={"none": np.asarray([0]), "one": np.asarray([1])}, w=(3, 6)))
    assert any("repeats it a computed number of times" in text for text in because(found, "w", 1))
