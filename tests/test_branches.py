import numpy as np
import onnx
import pytest
from test_law import both_sides
from text_nets import analysed, net

from onnxprune.branches import droppable
from onnxprune.choose import Wish, choose
from onnxprune.cost import CostModel
from onnxprune.errors import PlanError
from onnxprune.plan import Plan, check


def residual(branch: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A stem of 6 channels, a branch from `s` to `b` that is added to it, and a head."""
    text = f"""net (float[N,3,8,8] x) => (float[N,2,8,8] y) {{
        s = Conv(x, stem)  {branch}  sum = Add(s, b)  y = Conv(sum, head)
    }}"""
    return net(text, stem=(6, 3, 1, 1), head=(2, 6, 1, 1), **shapes)


TWO = {"w1": (4, 6, 1, 1), "w2": (6, 4, 1, 1)}
BRANCHES = {
    "without a bias": ("h = Conv(s, w1)  r = Relu(h)  b = Conv(r, w2)", TWO),
    "with a bias": ("h = Conv(s, w1)  r = Relu(h)  b = Conv(r, w2, bias)", {**TWO, "bias": (6,)}),
    "scaled": ("h = Conv(s, w1)  c = Conv(h, w2, bias)  b = Mul(c, scale)", {**TWO, "bias": (6,), "scale": (6, 1, 1)}),
    "normalised": (
        "h = Conv(s, w1)  c = Conv(h, w2)  p = Exp(v)  b = BatchNormalization(c, g, o, m, p)",
        {**TWO, "g": (6,), "o": (6,), "m": (6,), "v": (6,)},
    ),
    "with a norm inside": ("h = Conv(s, w1)  n = Softmax<axis=1>(h)  b = Conv(n, w2)", TWO),
}


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_without_channels_goes_and_leaves_its_constant(kind: str):
    branch, shapes = BRANCHES[kind]
    proto = residual(branch, **shapes)
    assert droppable(analysed(proto)) == {"w1"}
    for checked in both_sides(proto, {"w1": (), "stem": (0, 2, 3)}):
        assert checked.equal
    for checked in both_sides(proto, {"w1": ()}):
        assert checked.equal


@pytest.mark.parametrize(
    ("branch", "shapes"),
    [
        ("h = Conv(s, w1)  r = Relu(h)  t = Conv(r, w2)  b = Conv(t, w3)", {**TWO, "w3": (6, 6, 1, 1)}),
        ("h = Conv(s, w1)  t = Conv(h, w2)  p = Mul(t, s)  b = Relu(p)", TWO),
        ("h = Conv(s, w1)  t = Conv(h, w2)  m = Flatten(t)  b = Reshape(m, like)", TWO),
    ],
)
def test_what_meets_no_residual_keeps_a_channel(branch: str, shapes: dict[str, tuple[int, ...]]):
    proto = residual(branch, **shapes)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([-1, 6, 8, 8]), "like"))
    found = analysed(proto)
    assert "w1" not in droppable(found)
    with pytest.raises(PlanError, match="'w1' must keep at least one channel: no residual goes past it"):
        check(Plan({"w1": np.zeros(0, np.int64)}), found)


def test_the_best_channels_of_all_may_leave_a_branch_empty():
    branch, shapes = BRANCHES["with a bias"]
    found = analysed(residual(branch, **shapes))
    scores = {"stem": np.ones(6), "w1": np.full(4, 0.1)}
    kept = {
        drop: choose(
            found, CostModel(found), scores, Wish(0.6, multiple_of=1, scope="global", drop_branches=drop)
        ).counts(found)
        for drop in (False, True)
    }
    assert kept == {False: [5, 1], True: [6, 0]}


def test_dropping_branches_takes_a_global_choice():
    with pytest.raises(PlanError, match="takes --scope global"):
        Wish(0.5, drop_branches=True)
