"""Slice and Gather: what passes beside what they cut, and tables of indices."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.plan import Plan


def layer(op: str, *, space: str = "5", **values: object) -> onnx.ModelProto:
    """Six channels a of a layer, the op to h, and the sum over axis 1 of h."""
    text = f"net (float[N,3,{space}] x) => (float[A,B,C] y) {{ a = Conv(x, w)  {op}  y = ReduceSum(h, one) }}"
    given = {name: np.asarray(value) for name, value in values.items()} | {"one": np.asarray([1])}
    return net(text, values=given, w=(6, 3, 1))


def holds(proto: onnx.ModelProto, **kept: tuple[int, ...]) -> bool:
    return all(side.equal for side in both_sides(proto, kept))


# ---- Slice


def test_channels_pass_a_slice_of_positions_that_is_computed_when_the_model_runs():
    """x[:, :, : x.shape[2] - 2] of any length."""
    op = "s = Shape(x)  e = Gather(s, axis)  m = Sub(e, two)  h = Slice(a, none, m, axis, one)"
    proto = layer(op, space="L", axis=[2], two=[2], none=[0])
    found = analysed(proto)
    assert sizes(found) == {"w": 6}
    assert holds(proto, w=(1, 4))


def test_channels_that_are_cut_at_computed_bounds_stay():
    op = "s = Shape(x)  e = Gather(s, axis)  m = Div(e, hundred)  h = Slice(a, none, m, one)"
    found = analysed(layer(op, space="L", axis=[2], none=[0], hundred=[100]))
    assert because(found, "w", 0) == {"Slice 'slice4': cuts it at computed bounds"}


@pytest.mark.parametrize("given", ["h = Slice(a, none, m)", "h = Slice(a, none, m, , step)"])
def test_a_slice_with_computed_bounds_of_every_axis_lets_no_channel_pass(given: str):
    op = f"s = Shape(x)  c = Cast<to=7>(s)  m = Sub(c, less)  {given}"
    found = analysed(layer(op, space="L", less=[0, -3, 1], none=[0, 0, 0], step=[1, 1, 1]))
    assert any("cuts it at computed bounds" in text for text in because(found, "w", 0))


# ---- Gather

TABLE = np.asarray([[0, 1, 2], [3, 4, 5]])
PATCHES = np.arange(4)[:, None] + np.arange(3)[None]


def test_a_table_of_indices_makes_an_axis_a_grid():
    proto = layer("t = Gather<axis=1>(a, i)  h = ReduceMean<keepdims=0>(t, one)", i=TABLE)
    found = analysed(proto)
    assert sorted(sizes(found).values()) == [2, 3]
    rows = {size: name for name, size in sizes(found).items()}
    assert holds(proto, **{rows[2]: (1,), rows[3]: (0, 2)})


def test_rows_and_columns_of_a_table_go_with_their_entries():
    proto = layer("t = Gather<axis=1>(a, i)  h = ReduceMean<keepdims=0>(t, one)", i=TABLE)
    found = analysed(proto)
    rows = {size: name for name, size in sizes(found).items()}
    rewrite.apply(found, Plan({rows[2]: np.asarray([1]), rows[3]: np.asarray([0, 2])}))
    slim = model.to_proto(found.model)
    (node,) = (node for node in slim.graph.node if node.op_type == "Gather")
    constants = {t.name: numpy_helper.to_array(t) for t in slim.graph.initializer}
    assert constants["w"].shape[0] == 2
    assert constants[node.input[1]].tolist() == [[0, 1]]


def test_entries_of_overlapping_patches_stay():
    found = analysed(layer("t = Gather<axis=1>(a, i)  h = ReduceMean<keepdims=0>(t, one)", i=PATCHES))
    assert not sizes(found)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_a_table_of_one_row_is_a_list(shape: tuple[int, int]):
    proto = layer(
        "t = Gather<axis=1>(a, i)  h = Squeeze(t, at)",
        i=np.reshape([3, 5, 0, 1], shape),
        at=[shape.index(1) + 1],
    )
    found = analysed(proto)
    assert sorted(sizes(found).values()) == [2, 4]
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    assert target.tolist() == source[[3, 5, 0, 1]].tolist()
    assert holds(proto, **dict.fromkeys(sizes(found), (0,)))


def test_channels_pass_a_look_up_by_computed_indices():
    """Positions picked when the model runs, by as many indices as there are positions in x."""
    op = "z = Mul(x, zero)  m = ReduceMax<keepdims=0>(z, both)  i = Cast<to=7>(m)  h = Gather<axis=2>(a, i)"
    proto = layer(op, zero=np.float32(0), both=[0, 1])
    assert sizes(analysed(proto)) == {"w": 6}
    assert holds(proto, w=(0, 5))
