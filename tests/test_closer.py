"""Differences that are rounding are told from those that are not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_text import parsed
from test_law import both_sides
from text_nets import net

from onnxprune.apart import Apart
from onnxprune.compare.decided import decisions
from onnxprune.compare.doubled import Doubled, in_double
from onnxprune.verify import verify

W, U = np.random.default_rng(0).normal(size=(2, 16, 6)).astype(np.float32)
W[:, 1] = W[:, 0]
DEEP = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)


def ranking(w: np.ndarray) -> onnx.ModelProto:
    """The best two of six scores, and the values at their places; the first two scores are equal but for rounding."""
    return net(
        """net (float[N,16] x) => (float[N,2] v, int64[N,2] i, float[N,2] y) {
            s = MatMul(x, w)  v, i = TopK<axis=1>(s, two)  p = MatMul(x, u)  y = GatherElements<axis=1>(p, i)
        }""",
        values={"w": w, "u": U, "two": np.asarray([2])},
    )


def nudged(column: int, factor: float) -> np.ndarray:
    return np.where(np.arange(6) == column, W * np.float32(factor), W)


def test_a_tie_may_go_either_way():
    found = verify(ranking(nudged(0, 1 + 3e-7)), ranking(nudged(1, 1 + 3e-7)))
    assert found.equal
    assert found.undecided is not None and found.undecided > 0.1
    assert found.single is None
    assert found.to_json()["undecided"] == found.undecided


@pytest.mark.parametrize("factor", [1.001, 1.5])
def test_what_a_decision_follows_from_must_be_equal(factor: float):
    """The fourth score never is among the best two; that it is another one shows all the same."""
    low = np.where(np.arange(6) == 3, np.float32(0.01) * np.abs(W), W)
    changed = np.where(np.arange(6) == 3, np.float32(factor) * low, low)
    changed[:, 1] *= np.float32(1 + 3e-7)
    first = ranking(np.where(np.arange(6) == 0, low * np.float32(1 + 3e-7), low))
    assert not verify(first, ranking(np.float32(1 + 10 * (factor - 1)) * changed)).equal


def offset(order: np.ndarray, factor: float = 1.0) -> onnx.ModelProto:
    """A sum in this order less nearly the same one, of which float32 keeps a few bits only."""
    w = np.float32(factor) * DEEP[order]
    near = DEEP + np.random.default_rng(3).normal(0, 1e-3, DEEP.shape)
    return net(
        """net (float[N,64] x) => (float[N,3] y) {
            g = Gather<axis=1>(x, order)  m = MatMul(g, w)  n = MatMul(x, near)  y = Sub(m, n)
        }""",
        values={"order": order, "w": w, "near": near.astype(np.float32)},
    )


def test_rounding_is_told_in_double_precision():
    found = verify(offset(np.arange(64)), offset(np.random.default_rng(2).permutation(64)))
    assert found.equal and found.max_rel_error < 1e-9
    assert found.single is not None and found.single > 1e-5
    assert found.undecided is None
    assert found.to_json()["single"] == found.single


def test_a_small_error_is_no_rounding():
    found = verify(offset(np.arange(64)), offset(np.random.default_rng(2).permutation(64), factor=1 + 1e-6))
    assert not found.equal and 1e-4 < found.max_rel_error < 1e-2


def test_a_model_that_rounds_far_worse_is_not_the_same_one():
    """Equal in double precision, but what the original computes to seven digits this one computes to three."""
    text = "net (float[N,16] x) => (float[N,6] y) {{ m = MatMul(x, w)  {0} }}"
    plain = net(text.format("y = Identity(m)"), values={"w": U})
    coarse = net(text.format("a = Add(m, c)  y = Sub(a, c)"), values={"w": U, "c": np.full((1, 6), 1e4, np.float32)})
    found = verify(plain, coarse)
    assert 1e-5 < found.max_rel_error < 1e-2
    assert not found.equal and found.single is None


def test_what_the_evaluator_does_not_know_is_compared_as_it_is():
    def foreign(order: np.ndarray) -> onnx.ModelProto:
        proto = offset(order)
        proto.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
        proto.graph.output[0].name = "z"
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return proto

    found = verify(foreign(np.arange(64)), foreign(np.random.default_rng(2).permutation(64)))
    assert not found.equal and found.single is None


def test_double_is_double_throughout():
    proto = parsed(
        """net (float[2] x, bool flag) => (float[2] y, float[2] z) {
            third = Constant<value_float=0.1>()  pair = Constant<value_floats=[0.1, 0.2]>()
            zeros = ConstantOfShape(two)  f = Cast<to=1>(whole)  a = Mul(x, third)  b = Add(a, pair)
            c = Add(b, zeros)  d = Add(c, f)
            y = If (flag) <
                then_branch = t () => (float[2] u) { t1 = Constant<value_float=0.3>()  u = Add(d, t1) },
                else_branch = e () => (float[2] v) { v = Neg(d) }
            >
            z = Cast<to=1>(d)
        }"""
    )
    proto.graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [1], [2]))
    proto.graph.initializer.append(helper.make_tensor("whole", TensorProto.INT64, [], [7]))
    run = Doubled(Apart(proto))
    x = np.float32([1, 1 / 3])
    y, z = run({"x": x, "flag": np.asarray(True)})
    tenth, three = np.float64(np.float32(0.1)), np.float64(np.float32(0.3))
    expected = x.astype(np.float64) * tenth + np.asarray([0.1, 0.2], np.float32).astype(np.float64) + 7
    assert y.dtype == z.dtype == np.float64
    np.testing.assert_allclose(z, expected, rtol=1e-15)
    np.testing.assert_allclose(y, expected + three, rtol=1e-15)
    assert {value.type.tensor_type.elem_type for value in in_double(proto).graph.output} == {TensorProto.DOUBLE}


def test_shape_arithmetic_decides_nothing():
    proto = net(
        """net (float[N,4] x) => (float[A,B] y, bool[N,4] m, float[N,4] f) {
            s = Shape(x)  r = Cast<to=1>(s)  h = Mul(r, ones)  i = Cast<to=7>(h)  y = Reshape(x, i)
            m = Greater(x, half)  f = Floor(x)
        }""",
        values={"ones": np.ones(2, np.float32), "half": np.float32(0.5)},
    )
    assert [(one.outputs, one.reads) for one in decisions(proto).made] == [(("m",), ("x",)), (("f",), ("x",))]


def test_decisions_on_pruned_channels_are_left_to_each_model():
    """The mask has a channel for each of `a`; the places of its best are the same in both."""
    proto = net(
        """net (float[N,3,8,8] x) => (float[N,2,8,8] y, int64[N,1,8,8] i) {
            a = Conv(x, w1)  m = Greater(a, zero)  f = Cast<to=1>(m)  b = Mul(a, f)  y = Conv(b, w2)
            i = ArgMax<axis=1>(y)
        }""",
        values={"zero": np.float32(0)},
        w1=(8, 3, 3, 3),
        w2=(2, 8, 1, 1),
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    for checked in both_sides(proto, {"w1": (1, 5)}):
        assert checked.equal


def test_free_sizes_that_do_not_run_are_not_the_last_word():
    """As a vision transformer whose positions were traced at 64 pixels, with the sizes declared free."""
    proto = net(
        """net (float[N,3,H,W] x) => (float[N,64,1] y) {
            p = Conv<kernel_shape=[8,8], strides=[8,8]>(x, w)  r = Reshape(p, to)  t = Add(r, places)  y = MatMul(t, v)
        }""",
        values={"to": np.asarray([0, 64, -1])},
        w=(64, 3, 8, 8),
        places=(1, 64, 64),
        v=(64, 1),
    )
    assert verify(proto, proto).equal
