"""LSTM, GRU, RNN and their states: which channels belong together, what is cut, and what it costs."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from strategies import random_inputs
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import gates, model, rewrite
from onnxprune.cost import CostModel
from onnxprune.groups import Groups
from onnxprune.plan import Plan

ROWS = {"LSTM": 4, "GRU": 3, "RNN": 1}
KEPT = (0, 3, 4)


def weights(kind: str, *, directions: int = 1, inputs: int = 3, hidden: int = 6, suffix: str = "") -> dict:
    rows = ROWS[kind] * hidden
    shapes = {"w": (directions, rows, inputs), "r": (directions, rows, hidden), "b": (directions, 2 * rows)}
    return {name + suffix: shape for name, shape in shapes.items()}


def layer(kind: str, *, directions: int = 1, opset: int = 14, attributes: str = "") -> onnx.ModelProto:
    """One layer on x (5 N 3), its Y as tokens into a last layer."""
    way = ', direction="bidirectional"' if directions == 2 else ""
    return net(
        f"""net (float[5,N,3] x) => (float[5,N,2] y) {{
            h = {kind}<hidden_size=6{way}{attributes}>(x, w, r, b)  s = Transpose<perm=[0,2,1,3]>(h)
            t = Reshape(s, shape)  y = MatMul(t, v)
        }}""",
        opset=opset,
        values={"shape": np.array([0, 0, 6 * directions])},
        **weights(kind, directions=directions),
        v=(6 * directions, 2),
    )


def slimmed(proto: onnx.ModelProto, **kept: tuple[int, ...]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def members(found: Groups) -> set[tuple[str, int]]:
    (group,) = found
    return {(member.tensor, member.axis) for member in group.members}


def assert_exact(proto: onnx.ModelProto, **kept: tuple[int, ...]) -> None:
    opened, closed = both_sides(proto, kept)
    assert opened.equal and closed.equal


# ---- which channels there are


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_hidden_channel_lies_on_all_weights_and_on_the_next_layer(kind: str, directions: int):
    found = analysed(layer(kind, directions=directions))
    assert sizes(found) == {"w": 6}
    assert members(found) == {("w", 1), ("r", 1), ("r", 2), ("b", 1), ("h", 3), ("s", 3), ("t", 2), ("v", 0)}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("directions", [1, 2])
def test_every_gate_and_direction_loses_the_same_channels(kind: str, directions: int):
    proto = layer(kind, directions=directions)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in p.graph.initializer}
        for p in (proto, slimmed(proto, w=KEPT))
    )
    rows = [6 * gate + channel for gate in range(ROWS[kind]) for channel in KEPT]
    both = [*rows, *(6 * ROWS[kind] + row for row in rows)]
    np.testing.assert_array_equal(after["w"], before["w"][:, rows])
    np.testing.assert_array_equal(after["r"], before["r"][:, rows][:, :, KEPT])
    np.testing.assert_array_equal(after["b"], before["b"][:, both])
    follows = [6 * direction + channel for direction in range(directions) for channel in KEPT]
    np.testing.assert_array_equal(after["v"], before["v"][follows])


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("opset", [7, 14, 22])
def test_gates_on_the_recurrent_weight_hold_the_law(kind: str, directions: int, opset: int):
    proto = layer(kind, directions=directions, opset=opset)
    assert_exact(proto, w=KEPT)
    (node,) = (node for node in slimmed(proto, w=KEPT).graph.node if node.op_type == kind)
    assert next(a.i for a in node.attribute if a.name == "hidden_size") == 3


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("GRU", ", linear_before_reset=1"),
        ("LSTM", ", input_forget=1, clip=1.5"),
        (
            "LSTM",
            ', activations=["HardSigmoid","Relu","Softsign"], activation_alpha=[0.3], activation_beta=[0.4]',
        ),
        ("RNN", ', activations=["Relu"], direction="reverse"'),
    ],
)
def test_what_happens_within_a_step_is_each_channels_own(kind: str, attributes: str):
    assert_exact(layer(kind, attributes=attributes), w=KEPT)


def test_layers_on_top_of_each_other_have_channels_of_their_own():
    proto = net(
        """net (float[5,N,3] x) => (float[N,2] y) {
            a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)  s = Transpose<perm=[0,2,1,3]>(a)
            t = Reshape(s, shape)  h, last = GRU<hidden_size=4>(t, w_, r_, b_)
            z = Squeeze(last, zero)  y = MatMul(z, v)
        }""",
        values={"shape": np.array([0, 0, -1]), "zero": np.array([0])},
        **weights("LSTM", directions=2),
        **weights("GRU", inputs=12, hidden=4, suffix="_"),
        v=(4, 2),
    )
    assert sizes(analysed(proto)) == {"w": 6, "w_": 4}
    assert_exact(proto, w=KEPT, w_=(1, 3))


def test_directions_that_are_joined_split_and_added_let_channels_go():
    """As torch writes `y.view(T, N, 2, -1).sum(2)`."""
    proto = net(
        """net (float[5,N,3] x) => (float[5,N,2] y) {
            h = GRU<hidden_size=6, direction="bidirectional">(x, w, r, b)  s = Transpose<perm=[0,2,1,3]>(h)
            t = Reshape(s, joined)  u = Reshape(t, apart)  a = ReduceSum<keepdims=0>(u, two)  y = MatMul(a, v)
        }""",
        values={"joined": np.array([0, 0, -1]), "apart": np.array([0, 0, 2, -1]), "two": np.array([2])},
        **weights("GRU", directions=2),
        v=(6, 2),
    )
    assert sizes(analysed(proto)) == {"w": 6}
    assert_exact(proto, w=KEPT)


def test_the_inputs_of_a_layer_lose_what_the_layer_before_does():
    proto = net(
        """net (float[5,N,3] x) => (float[5,1,N,6] y) {
            a = MatMul(x, u)  t = Relu(a)  y = RNN<hidden_size=6>(t, w, r)
        }""",
        u=(3, 8),
        w=(1, 6, 8),
        r=(1, 6, 6),
    )
    found = analysed(proto)
    assert sizes(found) == {"u": 8}
    assert because(found, "r", 2) == {"'y' is an output of the model"}
    assert_exact(proto, u=(2, 5, 6))


# ---- states


def stateful(make: str, state: str = "s", **values: np.ndarray) -> onnx.ModelProto:
    """An LSTM with peepholes that starts from what `make` makes of the input."""
    return net(
        f"""net (float[N,5,3] x) => (float[N,2] y) {{
            t = Transpose<perm=[1,0,2]>(x)  {make}
            h, last = LSTM<hidden_size=6>(t, w, r, b, , {state}, {state}, p)  z = Squeeze(last, zero)  y = MatMul(z, v)
        }}""",
        values={"zero": np.array([0]), **values},
        **weights("LSTM"),
        p=(1, 18),
        v=(6, 2),
    )


BATCH = "n = Shape<start=0, end=1>(x)  q = Concat<axis=0>(one, n, six)  "
SIZES = {"one": np.array([1]), "six": np.array([6])}


@pytest.mark.parametrize(
    ("make", "values"),
    [
        ("s = ConstantOfShape<value = float[1] {0.5}>(q)", SIZES),
        ("s = Expand(c, q)", SIZES | {"c": np.arange(6, dtype=np.float32).reshape(1, 1, 6) / 9}),
        ("s = Expand(c, q)", SIZES | {"c": np.float32(0.5)}),
    ],
)
def test_states_made_for_the_batch_at_hand_let_channels_go(make: str, values: dict[str, np.ndarray]):
    proto = stateful(BATCH + make, **values)
    (name,) = sizes(found := analysed(proto))
    assert {("s", 2), ("w", 1), ("p", 1)} <= members(found)
    assert_exact(proto, **{name: KEPT})


def test_a_state_that_a_layer_computes_ties_the_channels_of_both():
    proto = stateful(
        "m = ReduceMean<keepdims=0>(x, one)  g = MatMul(m, u)  s = Unsqueeze(g, zero)",
        one=np.array([1]),
        u=np.eye(3, 6, dtype=np.float32),
    )
    assert {("u", 1), ("w", 1), ("p", 1)} <= members(analysed(proto))
    assert_exact(proto, u=KEPT)


def test_a_layer_may_give_its_last_state_only():
    proto = stateful(BATCH + "s = Expand(c, q)", **SIZES, c=np.float32(0.5))
    (node,) = (node for node in proto.graph.node if node.op_type == "LSTM")
    node.output[0] = ""
    (name,) = sizes(analysed(proto))
    assert_exact(proto, **{name: KEPT})


def test_a_state_that_is_given_keeps_the_channels_whole():
    proto = net(
        """net (float[5,2,3] x, float[1,2,6] s) => (float[1,2,2] y) {
            h, last = GRU<hidden_size=6>(x, w, r, b, , s)  y = MatMul(last, v)
        }""",
        **weights("GRU"),
        v=(6, 2),
    )
    found = analysed(proto)
    assert sizes(found) == {}
    assert because(found, "r", 2) == {"'s' is an input of the model"}


@pytest.mark.parametrize("zeros", ["zeros = ConstantOfShape(q)", "zeros = Expand(c, q)"])
def test_layers_that_start_from_parts_of_one_zero_tensor_keep_channels_of_their_own(zeros: str):
    proto = net(
        f"""net (float[5,N,3] x) => (float[1,N,2] y) {{
            n = Shape<start=1, end=2>(x)  q = Concat<axis=0>(two, n, six)  {zeros}
            s = Slice(zeros, zero, one, zero)  s_ = Slice(zeros, one, two, zero)
            a = LSTM<hidden_size=6>(x, w, r, b, , s, s)  t = Squeeze(a, one)
            h, last = RNN<hidden_size=6>(t, w_, r_, b_, , s_)  y = MatMul(last, v)
        }}""",
        values=SIZES | {"zero": np.array([0]), "two": np.array([2]), "c": np.float32(0)},
        **weights("LSTM"),
        **weights("RNN", inputs=6, suffix="_"),
        v=(6, 2),
    )
    assert sizes(analysed(proto)) == {"w": 6, "w_": 6}
    assert_exact(proto, w=KEPT, w_=(1, 2))
    inputs = [len(node.input) for node in slimmed(proto).graph.node if node.op_type in ROWS]
    assert inputs == [4, 4]


# ---- what onnxruntime does not run


@pytest.mark.parametrize("kind", ROWS)
def test_batch_first_layers_are_exact_as_well(kind: str):
    proto = net(
        f"""net (float[2,5,3] x) => (float[2,2] y) {{
            h, last = {kind}<hidden_size=6, layout=1>(x, w, r, b, , s)
            a = Gather<axis=1>(h, end)  c = Add(a, last)  z = Squeeze(c, one)  y = MatMul(z, v)
        }}""",
        opset=14,
        values={
            "one": np.array([1]),
            "end": np.array(-1),
            "s": np.random.default_rng(1).normal(size=(2, 1, 6)).astype(np.float32),
        },
        **weights(kind),
        v=(6, 2),
    )
    found = analysed(proto)
    assert sizes(found) == {"w": 6}
    gates.insert(found, {"w": np.isin(np.arange(6), KEPT).astype(np.float32)})
    feed = random_inputs(proto, seed=0)
    ours, theirs = (
        ReferenceEvaluator(p).run(None, feed)[0]
        for p in (model.to_proto(found.model), slimmed(proto, w=KEPT))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# ---- costs


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("directions", [1, 2])
def test_macs_are_those_of_both_products_in_every_step_and_direction(kind: str, directions: int):
    proto = layer(kind, directions=directions)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    costs = CostModel(analysed(proto))
    per_step = directions * ROWS[kind] * 6 * (3 + 6) + 6 * directions * 2
    assert costs.total["macs"] == pytest.approx(5 * 2 * per_step)
    left = directions * ROWS[kind] * 3 * (3 + 3) + 3 * directions * 2
    assert costs.count("macs", [3]) == pytest.approx(5 * 2 * left)
