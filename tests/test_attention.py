"""Attention as one op: heads and channels of heads, apart for keys and for values."""

import numpy as np
import onnx
import pytest
from onnx import helper
from strategies import random_plan
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.cost import CostModel
from onnxprune.groups import Member
from onnxprune.plan import Plan

FLAT = """net (float[N,4,5] x) => (float[N,4,2] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    a = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, k, v)
    y = MatMul(a, wo)
}"""
SHAPES = {"wq": (5, 12), "wk": (5, 6), "wv": (5, 10), "wo": (20, 2)}
UNFOLDED = """net (float[N,4,5] x) => (float[N,4,2] y)
<int64[4] four = {0, 0, 4, -1}, int64[4] two = {0, 0, 2, -1}, int64[3] flat = {0, 0, -1}> {
    q = MatMul(x, wq)  qs = Reshape(q, four)  qh = Transpose<perm=[0,2,1,3]>(qs)
    k = MatMul(x, wk)  ks = Reshape(k, two)   kh = Transpose<perm=[0,2,1,3]>(ks)
    v = MatMul(x, wv)  vs = Reshape(v, two)   vh = Transpose<perm=[0,2,1,3]>(vs)
    ah = Attention(qh, kh, vh)
    as = Transpose<perm=[0,2,1,3]>(ah)  a = Reshape(as, flat)
    y = MatMul(a, wo)
}"""
FOUND = {"wq": 2, "wq#2": 2, "wq#3": 3, "wv": 5}
"""Heads of keys and values, heads of queries for each of them, channels of keys, channels of values."""
KEPT = {"wq": (1,), "wq#2": (0,), "wq#3": (0, 2), "wv": (1, 3, 4)}


def shared_groups(text: str, **more: tuple[int, ...]) -> onnx.ModelProto:
    return net(text, opset=23, **(SHAPES | more))


def cut(proto: onnx.ModelProto, kept: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def only(proto: onnx.ModelProto, op: str) -> dict[str, object]:
    (node,) = (node for node in proto.graph.node if node.op_type == op)
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def shape(proto: onnx.ModelProto, name: str) -> list[int]:
    return next(list(t.dims) for t in proto.graph.initializer if t.name == name)


@pytest.mark.parametrize("text", [FLAT, UNFOLDED], ids=["flat", "unfolded"])
def test_heads_their_queries_and_channels_of_keys_and_values_are_groups_of_their_own(text: str):
    assert sorted(sizes(analysed(shared_groups(text))).values()) == sorted(FOUND.values())
    assert sizes(analysed(shared_groups(FLAT))) == FOUND


def test_what_is_left_is_exact():
    opened, closed = both_sides(shared_groups(FLAT), KEPT)
    assert opened.equal and closed.equal
    slim = cut(shared_groups(FLAT), KEPT)
    assert [shape(slim, w) for w in ("wq", "wk", "wv", "wo")] == [[5, 2], [5, 2], [5, 3], [3, 2]]


@pytest.mark.parametrize("seed", range(4))
def test_unfolded_heads_are_exact_too(seed: int):
    proto = shared_groups(UNFOLDED)
    opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
    assert opened.equal and closed.equal


def test_the_scale_stays_that_of_the_whole_heads():
    assert only(cut(shared_groups(FLAT), KEPT), "Attention")["scale"] == pytest.approx(3**-0.5)
    given = FLAT.replace("q_num_heads", "scale: float = 0.25, q_num_heads")
    assert only(cut(shared_groups(given), KEPT), "Attention")["scale"] == 0.25


def test_as_many_heads_as_are_left():
    left = only(cut(shared_groups(FLAT), {"wq#2": (1,)}), "Attention")
    assert (left["q_num_heads"], left["kv_num_heads"]) == (2, 2)
    left = only(cut(shared_groups(FLAT), {"wq": (1,)}), "Attention")
    assert (left["q_num_heads"], left["kv_num_heads"]) == (2, 1)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_mask_per_head_loses_its_heads(rank: int):
    proto = shared_groups(FLAT.replace("(q, k, v)", "(q, k, v, m)"), m=(1, 4, 4, 4)[4 - rank :])
    assert both_sides(proto, KEPT)[1].equal
    assert shape(cut(proto, {"wq": (1,)}), "m") == [1, 2, 4, 4][4 - rank :]


CACHED = """net (float[N,4,5] x, float[N,2,6,3] pk, float[N,2,6,5] pv) => (float[N,4,2] y, float[N,2,10,3] nk) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    a, nk, nv = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, k, v, , pk, pv)
    y = MatMul(a, wo)
}"""


def test_caches_that_come_from_outside_keep_what_they_hold():
    found = analysed(shared_groups(CACHED))
    assert sizes(found) == {"wq": 2}  # the queries of each head
    assert because(found, "k", 2) == {"'pk' is an input of the model"}


SEEN = """net (float[N,4,5] x) => (float[N,4,2] y, float[N,2,2] z) <int64[1] tokens = {2}> {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    ks = Reshape(k, two)  kh = Transpose<perm=[0,2,1,3]>(ks)  vs = Reshape(v, two)  vh = Transpose<perm=[0,2,1,3]>(vs)
    a, nk, nv, scores = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, k, v, , kh, vh)
    m = ReduceMean<keepdims=0>(nk, tokens)  z = MatMul(m, wz)
    y = MatMul(a, wo)
}"""


def test_keys_that_are_passed_on_are_gated_all_the_same():
    """Their channels are summed inside the op, and seen outside."""
    proto = shared_groups(SEEN, wz=(3, 2))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 2, -1]), "two"))
    (channels,) = (group for group in analysed(proto) if Member("nk", 3) in group.members and group.size == 3)
    opened, closed = both_sides(proto, {channels.name: (0, 2)})
    assert opened.equal and closed.equal


def test_products_with_keys_and_with_values_count():
    costs = CostModel(analysed(shared_groups(FLAT)))
    projections = 4 * 5 * (12 + 6 + 10) + 4 * 20 * 2
    assert costs.total["macs"] == projections + 4 * 4 * (12 + 20)


def test_numbers_of_heads_that_do_not_fit_freeze():
    found = analysed(shared_groups(FLAT.replace("kv_num_heads: int = 2", "kv_num_heads: int = 3")))
    assert sizes(found) == {}


# ---- rotary embeddings

TURNED = """net (float[N,4,5] x, int64[N,4] p) => (float[N,4,2] y) {
    q = MatMul(x, wq)
    t = RotaryEmbedding<num_heads: int=2, interleaved: int=INTER, rotary_embedding_dim: int=DIM>(q, cosines, sines, p)
    y = MatMul(t, wo)
}"""


def rotary(interleaved: int, dim: int, per_head: int) -> onnx.ModelProto:
    text = TURNED.replace("INTER", str(interleaved)).replace("DIM", str(dim))
    turns = (dim or per_head) // 2
    shapes = {"wq": (5, 2 * per_head), "cosines": (9, turns), "sines": (9, turns), "wo": (2 * per_head, 2)}
    return net(text, opset=23, **shapes)


@pytest.mark.parametrize(
    ("interleaved", "dim", "per_head", "pairs"),
    [
        (0, 0, 6, [[0, 3], [1, 4], [2, 5]]),
        (1, 0, 6, [[0, 1], [2, 3], [4, 5]]),
        (0, 4, 8, [[0, 2], [1, 3], [4, 5], [6, 7]]),
        (1, 4, 8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
)
def test_channels_that_turn_into_each_other_go_together(
    interleaved: int, dim: int, per_head: int, pairs: list[list[int]]
):
    found = analysed(rotary(interleaved, dim, per_head))
    entries = found.atoms.of[found.labels["q"][2]][:per_head]
    deciding = [set(found.deciding(atom)) for atom in entries.tolist()]
    together = [[k for k, of in enumerate(deciding) if of == other] for other in deciding]
    assert sorted({tuple(pair) for pair in together}) == [tuple(pair) for pair in sorted(pairs)]


@pytest.mark.parametrize(("interleaved", "dim", "per_head"), [(0, 0, 6), (1, 0, 6), (0, 4, 8), (1, 6, 8)])
def test_cosines_and_sines_lose_what_turned_with_them(interleaved: int, dim: int, per_head: int):
    proto = rotary(interleaved, dim, per_head)
    turning = next(name for name, size in sizes(analysed(proto)).items() if size == (dim or per_head) // 2)
    slim = cut(proto, {turning: (0,)})
    assert shape(slim, "cosines") == shape(slim, "sines") == [9, 1]
    assert only(slim, "RotaryEmbedding")["rotary_embedding_dim"] == (2 if dim else 0)
    assert both_sides(proto, {turning: (0,)})[1].equal


def test_turning_costs_no_products():
    assert CostModel(analysed(rotary(0, 0, 6))).total["macs"] == 4 * 5 * 12 + 4 * 12 * 2


def test_heads_that_are_turned_may_go():
    heads = next(name for name, size in sizes(analysed(rotary(0, 0, 6))).items() if size == 2)
    slim = cut(rotary(0, 0, 6), {heads: (1,)})
    assert only(slim, "RotaryEmbedding")["num_heads"] == 1
    assert shape(slim, "cosines") == [9, 3]


def test_a_cache_that_is_written_into_loses_channels_and_costs_nothing():
    text = """net (float[N,4,5] x) => (float[N,4,2] y) {
        c = MatMul(x, wc)  n = MatMul(x, wn)  l = Slice(n, zero, one, one)  d = TensorScatter<axis: int = 1>(c, l)
        y = MatMul(d, wo)
    }"""
    numbers = {"zero": np.array([0]), "one": np.array([1])}
    proto = net(text, opset=24, values=numbers, wc=(5, 6), wn=(5, 6), wo=(6, 2))
    assert list(sizes(analysed(proto)).values()) == [6]
    assert both_sides(proto, random_plan(0, [*sizes(analysed(proto)).items()]))[1].equal
    assert CostModel(analysed(proto)).total["macs"] == 4 * 5 * 6 * 2 + 4 * 6 * 2
