"""Ops that read or write at indices: which axes pass, which entries go together, and what is left of the indices."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.plan import Plan

SAME_EVERYWHERE = np.broadcast_to(np.asarray([2, 0, -1, 2])[None, :, None], (2, 4, 5)).copy()
"""Along axis 1 of 6 entries, one of them twice and one counted from the end."""
PLACES = np.random.default_rng(0).integers(0, 6, (2, 4, 5))
"""Other entries at every place."""
TWO_OF_SIX = np.broadcast_to(np.asarray([4, 1])[None, :, None], (2, 2, 5)).copy()


def layer(op: str, *, opset: int = 18, **values: object) -> onnx.ModelProto:
    """Two layers of 6 channels, a and b (2, 6, 5), the op to h, and the sum over axis 1 of h."""
    layers = "a = Conv(x, w1)  b = Conv(x, w2)"
    text = f"net (float[2,3,5] x) => (float[A,B,C] y) {{ {layers}  {op}  y = ReduceSum(h, one) }}"
    given = {name: np.asarray(value) for name, value in values.items()} | {"one": np.asarray([1])}
    return net(text, opset=opset, values=given, w1=(6, 3, 1), w2=(6, 3, 1))


def holds(proto: onnx.ModelProto) -> bool:
    """Whether the law holds where the later half of every group's channels stays, and where only the first does."""
    found = sizes(analysed(proto))
    plans = [
        {name: tuple(range(size // 2, size)) for name, size in found.items()},
        dict.fromkeys(found, (0,)),
    ]
    return all(side.equal for plan in plans for side in both_sides(proto, plan))


def cut(proto: onnx.ModelProto, **kept: tuple[int, ...]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def operand(proto: onnx.ModelProto, op: str, number: int) -> np.ndarray:
    (node,) = (node for node in proto.graph.node if node.op_type == op)
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == node.input[number]))


# ---- indices of the data's own rank


def test_entries_that_are_gathered_the_same_everywhere_go_one_by_one():
    proto = layer("h = GatherElements<axis=1>(a, i)", i=SAME_EVERYWHERE)
    found = analysed(proto)
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[2, 0, 5, 2]].tolist()
    assert sum(sizes(found).values()) == 6
    assert holds(proto)


def test_indices_are_counted_anew_without_the_entries_that_go():
    proto = layer("h = GatherElements<axis=1>(a, i)", i=SAME_EVERYWHERE)
    found = analysed(proto)
    groups = {group.name: group for group in found}
    first = found.atoms.of[found.labels["a"][1]][0]
    kept = {name: tuple(k for k in range(g.size) if g.atoms[k] != first) for name, g in groups.items()}
    left = operand(
        cut(proto, **{n: k for n, k in kept.items() if len(k) < groups[n].size}), "GatherElements", 1
    )
    assert left.shape == (2, 3, 5)
    assert (left == np.asarray([1, 4, 1])[None, :, None]).all()


def test_entries_that_are_gathered_by_place_stay():
    found = analysed(layer("h = GatherElements<axis=1>(a, i)", i=PLACES))
    (why,) = because(found, "w1", 0)
    assert why.endswith("indexes it by indices that differ from place to place")


@pytest.mark.parametrize("op", ["GatherElements", "ScatterElements"])
def test_entries_indexed_when_the_model_runs_stay(op: str):
    updates = ", b" if op == "ScatterElements" else ""
    found = analysed(
        layer(f"f = Abs(b)  z = Mul(f, zero)  i = Cast<to=7>(z)  h = {op}<axis=1>(a, i{updates})", zero=0.0)
    )
    assert any(why.endswith("indexes it by computed indices") for why in because(found, "w1", 0))


def test_what_is_gathered_along_another_axis_passes():
    proto = layer("h = GatherElements<axis=2>(a, i)", i=np.random.default_rng(0).integers(0, 5, (2, 6, 3)))
    assert sizes(analysed(proto)) == {"w1": 6}
    assert holds(proto)


def test_indices_over_the_first_channels_only_lose_as_many_as_these_do():
    proto = layer("h = GatherElements<axis=2>(a, i)", i=np.random.default_rng(0).integers(0, 5, (2, 4, 3)))
    assert sorted(sizes(analysed(proto)).values()) == [2, 4]
    assert holds(proto)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_written_entries_go_with_those_that_they_replace(reduction: str):
    op = f'u = Slice(b, none, two, one)  h = ScatterElements<axis=1, reduction="{reduction}">(a, i, u)'
    proto = layer(op, i=TWO_OF_SIX, none=[0], two=[2])
    found = analysed(proto)
    a, b = (found.atoms.of[found.labels[name][1]] for name in ("a", "b"))
    assert b[:2].tolist() == a[[4, 1]].tolist()
    assert holds(proto)


def test_updates_written_by_place_stay():
    i = np.argsort(np.random.default_rng(0).random((2, 6, 5)), axis=1)[:, :2]
    found = analysed(
        layer("u = Slice(b, none, two, one)  h = ScatterElements<axis=1>(a, i, u)", i=i, none=[0], two=[2])
    )
    assert not {name: size for name, size in sizes(found).items() if name.startswith("w1")}
    assert because(found, "u", 1)


def test_the_op_of_opset_9_is_read_as_its_successor():
    text = "net (float[2,3,5] x) => (float[2,2,5] y) { a = Conv(x, w1)  h = Scatter<axis=2>(a, i, u)  y = Conv(h, w2) }"
    values = {"i": np.zeros((2, 6, 1), np.int64), "u": np.ones((2, 6, 1), np.float32)}
    proto = net(text, opset=9, values=values, w1=(6, 3, 1), w2=(2, 6, 1))
    assert sizes(analysed(proto)) == {"w1": 6}


# ---- indices of several axes at once

FRONT = "f = Transpose<perm=[1,0,2]>(a)"
BACK = "h = Transpose<perm=[1,0,2]>(g)"


def test_slices_that_are_gathered_go_one_by_one():
    proto = layer(f"{FRONT}  g = GatherND(f, i)  {BACK}", i=[[3], [-1], [0]])
    found = analysed(proto)
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[3, 5, 0]].tolist()
    assert holds(proto)


def test_axes_behind_the_indexed_ones_pass_whatever_the_indices_are():
    """Tokens picked for each sample, the channels last."""
    op = "t = Transpose<perm=[0,2,1]>(a)  z = Mul(t, zero)  p = ReduceSum<keepdims=0>(z, two)"
    op += "  q = Slice(p, none, two, one)  u = Unsqueeze(q, two)  i = Cast<to=7>(u)"
    op += "  g = GatherND<batch_dims=1>(t, i)  h = Transpose<perm=[0,2,1]>(g)"
    proto = layer(op, zero=np.float32(0), two=[2], none=[0])
    assert 6 in sizes(analysed(proto)).values()
    assert holds(proto)


def test_a_grid_of_indices_passes_along_each_of_its_axes():
    """a[:, [4, 1], [0, 2]], as (2, 2, 2, 3) indices; channels 4 and 1 go one by one."""
    i = np.stack(np.meshgrid([0, 1], [4, 1], [0, 2], indexing="ij"), axis=-1)
    proto = layer("h = GatherND(a, i)", i=i)
    found = analysed(proto)
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[4, 1]].tolist()
    assert not because(found, "h", 1)
    assert holds(proto)


def test_channels_taken_in_pairs_with_positions_pass_as_well():
    """a[:, [4, 1], [0, 2]] as numpy reads it: entry k of the result is channel i[k] at position j[k]."""
    i = np.stack([[4, 1, 3], [0, 2, 4]], axis=-1)
    proto = layer(
        "f = Transpose<perm=[1,2,0]>(a)  g = GatherND(f, i)  t = Transpose(g)  h = Unsqueeze(t, last)",
        i=i,
        last=[2],
    )
    found = analysed(proto)
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[4, 1, 3]].tolist()
    assert holds(proto)


def test_a_region_is_written_over_by_the_channels_that_are_left():
    i = np.stack(np.meshgrid([0, 1], [4, 1], [0, 2], indexing="ij"), axis=-1)
    op = "u = Slice(b, none, two, axes)  h = ScatterND(a, i, u)"
    proto = layer(op, i=i, none=[0, 0], two=[2, 2], axes=[1, 2])
    found = analysed(proto)
    a, b = (found.atoms.of[found.labels[name][1]] for name in ("a", "b"))
    assert b[:2].tolist() == a[[4, 1]].tolist()
    assert holds(proto)


def test_updates_that_no_axis_follows_stay():
    """Four places, each with a channel and a position of its own: none of both can go alone."""
    i = np.asarray([[[4, 0], [1, 2]], [[0, 3], [5, 1]]])
    op = "f = Transpose<perm=[1,2,0]>(a)  g = ScatterND(f, i, u)  h = Transpose<perm=[2,0,1]>(g)"
    found = analysed(layer(op, i=i, u=np.ones((2, 2, 2), np.float32)))
    assert any(
        why.endswith("indexes it by indices that differ from place to place")
        for why in because(found, "w1", 0)
    )


def test_slices_are_written_where_the_model_says_and_their_channels_pass():
    """Rows of a cache chosen when the model runs."""
    op = "t = Transpose<perm=[2,0,1]>(a)  s = Slice(b, none, one, two)  u = Transpose<perm=[2,0,1]>(s)"
    op += "  m = ReduceMax<keepdims=0>(a)  z = Mul(m, zero)  r = Reshape(z, square)  i = Cast<to=7>(r)"
    op += "  g = ScatterND(t, i, u)  h = Transpose<perm=[1,2,0]>(g)"
    proto = layer(op, zero=np.float32(0), none=[0], two=[2], square=[1, 1])
    found = analysed(proto)
    assert found.atoms.of[found.labels["a"][1]].tolist() == found.atoms.of[found.labels["b"][1]].tolist()
    assert holds(proto)


# ---- entries chosen by their value


def test_a_compress_by_a_constant_condition_is_a_gather():
    proto = layer("h = Compress<axis=1>(a, c)", c=[True, False, True, True])
    found = analysed(proto)
    assert [node.op for node in found.nodes].count("Gather") == 1
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[0, 2, 3]].tolist()
    assert holds(proto)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("c = Cast<to=9>(flag)  h = Compress<axis=1>(a, c)", "keeps this axis whole"),
        ("c = Cast<to=9>(flag)  h = Compress(a, c)", "it keeps entries of all axes by a condition"),
        (
            "n = NonZero(a)  c = Cast<to=1>(n)  m = ReduceMax(c)  h = Add(a, m)",
            "how many entries it finds depends on the data",
        ),
        ("n = Unique(a)  m = ReduceMax(n)  h = Add(a, m)", "how many entries it keeps depends on the data"),
        (
            "f = Flatten(a)  e = EyeLike(f)  m = ReduceMax(e)  h = Add(a, m)",
            "it makes a matrix of its input's size",
        ),
        ("r = RandomNormalLike(a)  h = Add(a, r)", "depends on how many it draws"),
        ("h = Bernoulli(a)", "depends on how many it draws"),
        (
            "t = Transpose<perm=[0,2,1]>(a)  p = MatMul(a, t)  d = Det(p)  m = ReduceMax(d)  h = Add(a, m)",
            "a determinant needs every row and column",
        ),
        (
            "s = SequenceConstruct(a, b)  i = Cast<to=7>(scalar)  h = SequenceAt(s, i)",
            "whose entries are not known",
        ),
    ],
)
def test_what_depends_on_all_entries_stays_and_says_why(op: str, why: str):
    text = "net (float[2,3,5] x, float[6] flag, float scalar) => (float[A,B,C] y)"
    text += f" {{ a = Conv(x, w1)  b = Conv(x, w2)  {op}  y = ReduceSum(h, one) }}"
    found = analysed(net(text, values={"one": np.asarray([1])}, w1=(6, 3, 1), w2=(6, 3, 1)))
    assert any(why in text for text in because(found, "w1", 0))


def test_channels_pass_beside_the_axis_that_a_computed_condition_thins_out():
    proto = layer(
        "m = ReduceMax<keepdims=0>(x, both)  c = Greater(m, low)  h = Compress<axis=2>(a, c)",
        both=[0, 1],
        low=np.float32(-9),
    )
    assert sizes(analysed(proto)) == {"w1": 6}
    assert holds(proto)


def test_classes_of_channels_pass_beside_the_axis_of_classes():
    op = "z = Mul(a, zero)  i = Cast<to=7>(z)  o = OneHot<axis=1>(i, depth, values)  r = ReduceSum<keepdims=0>(o, one)"
    proto = layer(f"{op}  h = Add(a, r)", zero=np.float32(0), depth=3, values=np.float32([0.5, 2]))
    assert sizes(analysed(proto)) == {"w1": 6}
    assert holds(proto)
