"""Permutations of an axis' entries, however they are spelled, and conditions that are known."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from strategies import random_inputs
from test_law import both_sides
from text_nets import analysed, net, sizes

from onnxprune import model
from onnxprune.cost import CostModel
from onnxprune.prepare import prepare

SHUFFLE = "r = Reshape(a, apart)  t = Transpose<perm=[0,2,1,3,4]>(r)  h = Reshape(t, together)"
CHANNELS_LAST = """l = Transpose<perm=[0,2,3,1]>(a)  r = Reshape(l, apart)  t = Transpose<perm=[0,1,2,4,3]>(r)
    m = Reshape(t, together)  h = Transpose<perm=[0,3,1,2]>(m)"""


def shuffled(
    op: str, *, batch: str = "N", group: int = 1, opset: int = 18, **values: list[int]
) -> onnx.ModelProto:
    """Six channels a of a layer, the op to h, and a last layer."""
    text = f"""net (float[{batch},3,4,5] x) => (float[{batch},2,4,5] y) {{
        a = Conv(x, w1)  {op}  g = Conv<group={group}>(h, w2)  y = Conv(g, w3)
    }}"""
    given = {name: np.asarray(value) for name, value in values.items()}
    return net(text, opset=opset, values=given, w1=(6, 3, 1, 1), w2=(6, 6 // group, 1, 1), w3=(2, 6, 1, 1))


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = model.load(proto)
    prepare(loaded)
    return model.to_proto(loaded)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in prepared(proto).graph.node]


def order(proto: onnx.ModelProto) -> list[int]:
    """The constant indices of the only Gather there is."""
    left = prepared(proto).graph
    (node,) = (node for node in left.node if node.op_type == "Gather")
    return numpy_helper.to_array(next(t for t in left.initializer if t.name == node.input[1])).tolist()


def same_function(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Bit by bit: entries only change places."""
    feed = random_inputs(a, 1)
    results = [
        onnxruntime.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feed
        )
        for p in (a, b)
    ]
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


def hold(proto: onnx.ModelProto) -> bool:
    kept = {name: tuple(range(size // 2, size)) for name, size in sizes(analysed(proto)).items()}
    return all(side.equal for side in both_sides(proto, kept))


# ---- chains that are lowered


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (SHUFFLE, {"apart": [0, 2, 3, 4, 5], "together": [0, 6, 4, 5]}),
        (SHUFFLE, {"apart": [-1, 2, 3, 4, 5], "together": [0, -1, 4, 5]}),
        (SHUFFLE, {"apart": [0, 2, -1, 4, 5], "together": [-1, 6, 4, 5]}),
        (
            SHUFFLE.replace("perm=[0,2,1,3,4]", "perm=[0,2,1,3]"),
            {"apart": [0, 2, 3, 20], "together": [0, 6, 4, 5]},
        ),
        (
            "f = Flatten(a)  r = Reshape(f, apart)  t = Transpose<perm=[0,2,1,3]>(r)  h = Reshape(t, together)",
            {"apart": [0, 2, 3, 20], "together": [0, 6, 4, 5]},
        ),
        (
            "r = Reshape(a, apart)  u = Unsqueeze(r, one)  t = Transpose<perm=[0,1,3,2,4,5]>(u)"
            "  s = Squeeze(t, one)  h = Reshape(s, together)",
            {"apart": [0, 2, 3, 4, 5], "together": [0, 6, 4, 5], "one": [1]},
        ),
        (CHANNELS_LAST, {"apart": [0, 0, 0, 2, 3], "together": [0, 0, 0, 6]}),
        (
            "s = Shape(a)  b = Gather(s, zero)  c = Concat<axis=0>(b, sizes)  d = Concat<axis=0>(b, all)"
            "  r = Reshape(a, c)  t = Transpose<perm=[0,2,1,3,4]>(r)  h = Reshape(t, d)",
            {"zero": [0], "sizes": [2, 3, 4, 5], "all": [6, 4, 5]},
        ),
    ],
    ids=[
        "copied",
        "inferred batch",
        "inferred",
        "flat space",
        "Flatten",
        "Unsqueeze",
        "channels last",
        "computed",
    ],
)
@pytest.mark.parametrize("batch", ["N", "1", "2"])
def test_a_channel_shuffle_is_one_gather_and_its_channels_go_one_by_one(
    op: str, values: dict[str, list[int]], batch: str
):
    proto = shuffled(op, batch=batch, **values)
    assert order(proto) == [0, 3, 1, 4, 2, 5]
    assert ops(proto) == ["Conv", "Gather", "Conv", "Conv"]
    assert same_function(proto, prepared(proto))
    assert sizes(analysed(proto)) == {"w1": 6, "w2": 6}
    assert hold(proto)


def test_three_factors_in_any_order_are_one_gather():
    text = """net (float[N,3,4] x) => (float[N,2,4] y) <int64[5] apart = {0,2,3,4,4}, int64[3] together = {0,24,4}> {
        a = Conv(x, w1)  r = Reshape(a, apart)  t = Transpose<perm=[0,3,1,2,4]>(r)  h = Reshape(t, together)
        y = Conv(h, w2)
    }"""
    proto = net(text, w1=(24, 3, 1), w2=(2, 24, 1))
    assert order(proto) == np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).reshape(-1).tolist()
    assert sizes(analysed(proto)) == {"w1": 24}
    assert hold(proto)


def test_a_factor_may_be_cut_again_on_the_way():
    """(N, 12) as 3 x 4, swapped to 4 x 3, and the 4 of it cut into 2 x 2."""
    text = """net (float[N,5] x) => (float[N,2] y)
    <int64[3] a34 = {0,3,4}, int64[4] a223 = {0,2,2,3}, int64[2] flat = {0,12}> {
        a = Gemm(x, w1)  r = Reshape(a, a34)  t = Transpose<perm=[0,2,1]>(r)  q = Reshape(t, a223)
        s = Transpose<perm=[0,3,2,1]>(q)  h = Reshape(s, flat)  y = Gemm(h, w2)
    }"""
    proto = net(text, w1=(5, 12), w2=(12, 2))
    wanted = np.arange(12).reshape(3, 4).T.reshape(2, 2, 3).transpose(2, 1, 0).reshape(-1)
    assert order(proto) == wanted.tolist()
    assert same_function(proto, prepared(proto))
    assert sizes(analysed(proto)) == {"w1": 12}


def test_entries_that_would_be_copied_one_by_one_are_made_rows():
    """Channels last, and nothing around that would bring them to the front."""
    text = """net (float[N,4,3] x) => (float[N,4,2] y) <int64[4] apart = {0,0,2,3}, int64[3] together = {0,0,6}> {
        a = MatMul(x, w1)  r = Reshape(a, apart)  t = Transpose<perm=[0,1,3,2]>(r)  h = Reshape(t, together)
        y = MatMul(h, w2)
    }"""
    proto = net(text, w1=(3, 6), w2=(6, 2))
    assert ops(proto) == ["MatMul", "Transpose", "Gather", "Transpose", "MatMul"]
    assert same_function(proto, prepared(proto))
    assert sizes(analysed(proto)) == {"w1": 6}
    assert hold(proto)


def test_preparing_again_finds_nothing_to_lower():
    for op, apart, together in (
        (SHUFFLE, [0, 2, 3, 4, 5], [0, 6, 4, 5]),
        (CHANNELS_LAST, [0, 0, 0, 2, 3], [0, 0, 0, 6]),
    ):
        once = prepared(shuffled(op, apart=apart, together=together))
        assert prepared(once) == once


def test_the_gather_takes_only_what_is_left():
    found = analysed(shuffled(SHUFFLE, apart=[0, 2, 3, 4, 5], together=[0, 6, 4, 5]))
    fraction = CostModel(found).fraction("macs", [3, 3])
    assert fraction == pytest.approx((3 * 3 + 3 * 3 + 3 * 2) / (6 * 3 + 6 * 6 + 6 * 2))


# ---- chains that stay


def test_a_grid_between_two_grouped_convolutions_stays():
    """Groups of 2 x 3 channels, then of 3 x 2: the chain's own grid is what both are made of."""
    text = """net (float[N,3,4,5] x) => (float[N,2,4,5] y)
    <int64[5] apart = {0,2,3,4,5}, int64[4] together = {0,6,4,5}> {
        a = Conv(x, w1)  b = Conv<group=2>(a, w2)  c = Relu(b)  r = Reshape(c, apart)
        t = Transpose<perm=[0,2,1,3,4]>(r)  h = Reshape(t, together)  d = Conv<group=3>(h, w3)  y = Conv(d, w4)
    }"""
    proto = net(text, w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), w3=(6, 2, 1, 1), w4=(2, 6, 1, 1))
    assert "Gather" not in ops(proto)
    assert sorted(sizes(analysed(proto)).values()) == [2, 2, 3, 3]
    assert hold(proto)


@pytest.mark.parametrize("group", [2, 3])
def test_a_grouped_convolution_on_one_side_is_pruned_by_its_own_grid(group: int):
    values = {"apart": [0, 2, 3, 4, 5], "together": [0, 6, 4, 5]}
    proto = shuffled(SHUFFLE, group=group, **values)
    assert "Gather" in ops(proto)
    assert sorted(sizes(analysed(proto)).values()) == sorted([group, 6 // group, 6 // group])
    assert hold(proto)


def test_depthwise_convolutions_on_both_sides_are_no_grid():
    text = """net (float[N,3,4,5] x) => (float[N,2,4,5] y)
    <int64[5] apart = {0,2,3,4,5}, int64[4] together = {0,6,4,5}> {
        b = Conv(x, w1)  a = Conv<group=6>(b, w2)  r = Reshape(a, apart)  t = Transpose<perm=[0,2,1,3,4]>(r)
        h = Reshape(t, together)  d = Conv<group=6>(h, w3)  y = Conv(d, w4)
    }"""
    proto = net(text, w1=(6, 3, 1, 1), w2=(6, 1, 1, 1), w3=(6, 1, 1, 1), w4=(2, 6, 1, 1))
    assert "Gather" in ops(proto)
    assert sizes(analysed(proto)) == {"w1": 6}
    assert hold(proto)


APART = {"apart": [0, 2, 3, 4, 5], "together": [0, 6, 4, 5]}


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (f"{SHUFFLE.replace('h =', 's =')}  p = ReduceMax<keepdims=0>(t)  h = Add(s, p)", APART),
        (SHUFFLE.replace("[0,2,1,3,4]", "[0,2,1,4,3]"), APART),
        ("r = Reshape(a, apart)  h = Reshape(r, together)", APART),
        (SHUFFLE, {"apart": [0, 4, 6, 1, 5], "together": [0, 6, 4, 5]}),
        (SHUFFLE, {"apart": [1, 2, 3, 4, 5], "together": [1, 6, 4, 5]}),
    ],
    ids=["read in between", "space moves too", "nothing moves", "across the axes", "the batch of one"],
)
def test_only_a_permutation_of_one_axis_is_lowered(
    op: str, values: dict[str, list[int]], request: pytest.FixtureRequest
):
    proto = shuffled(op, batch="1", **values)
    assert ("Gather" in ops(proto)) == ("batch of one" in request.node.name)
    assert hold(proto)


def test_a_chain_that_ends_in_an_output_of_the_model_keeps_its_name():
    text = """net (float[N,6,4] x) => (float[N,6,4] y) <int64[4] apart = {0,2,3,4}, int64[3] together = {0,6,4}> {
        r = Reshape(x, apart)  t = Transpose<perm=[0,2,1,3]>(r)  y = Reshape(t, together)
    }"""
    proto = net(text)
    assert ops(proto)[-1] in ("Gather", "Transpose")
    assert same_function(proto, prepared(proto))


def test_an_output_of_the_model_between_stays():
    text = """net (float[N,6,20] x) => (float[N,6,20] y, float[N,3,2,20] t)
    <int64[4] apart = {0,2,3,20}, int64[3] together = {0,6,20}> {
        r = Reshape(x, apart)  t = Transpose<perm=[0,2,1,3]>(r)  y = Reshape(t, together)
    }"""
    assert ops(net(text)) == ["Reshape", "Transpose", "Reshape"]


# ---- conditions


def test_a_compress_without_an_axis_stays():
    text = "net (float[6] x) => (float[M] y) <bool[6] c = {1,0,1,1,0,0}> { y = Compress(x, c) }"
    assert ops(net(text)) == ["Compress"]


def test_a_compress_by_a_constant_is_a_gather():
    text = "net (float[N,4] x) => (float[N,M] y) <bool[3] c = {1,0,1}> { y = Compress<axis=1>(x, c) }"
    proto = net(text)
    assert order(proto) == [0, 2]
    assert same_function(proto, prepared(proto))


@pytest.mark.parametrize(("step", "group"), [(1, "w1"), (-1, "columns")])
def test_counting_through_a_flat_value_is_a_reshape(step: int, group: str):
    """So torch writes `as_strided` of a contiguous tensor with a free batch. Counted backwards it chooses entries,
    of which some can be left out, but the flat value keeps them all.
    """
    columns = np.arange(70)[None, ::step]
    proto = net(
        """net (float[N,3] x) => (float[N,2] y) {
            a = MatMul(x, w1)  f = Reshape(a, flat)  s = Shape(a)  n = Gather(s, zero)  r = Range(zero, n, one)
            m = Mul(r, width)  u = Unsqueeze(m, last)  i = Add(u, columns)  g = Gather(f, i)  y = MatMul(g, w2)
        }""",
        values={
            "flat": np.asarray([-1]),
            "zero": np.asarray(0),
            "one": np.asarray(1),
            "width": np.asarray(70),
            "last": np.asarray([1]),
            "columns": np.ascontiguousarray(columns),
        },
        w1=(3, 70),
        w2=(70, 2),
    )
    assert sizes(analysed(proto)) == {group: 70}
    for checked in both_sides(proto, {group: (1, 40)}):
        assert checked.equal
