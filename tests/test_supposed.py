"""Sizes that the data decide over: what follows from them are shapes of what comes after, and never values."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune.shapes import Shapes, infer
from onnxprune.shapes.supposed import FEW

TEXT = "net (float[4,6] x, bool[4] flags, float s) => (float[A] y)"


def shapes(body: str, *, opset: int = 18, **values: object) -> Shapes:
    proto = net(f"{TEXT} {{ {body} }}", opset=opset, values={k: np.asarray(v) for k, v in values.items()})
    return infer(gs.import_onnx(proto))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("f = NonZero(x)", [(2, 2), FEW]),
        ("f = Compress<axis=0>(x, flags)", [FEW, (6, 6)]),
        ("f = Compress<axis=-1>(x, flags)", [(4, 4), FEW]),
        ("f = Compress(x, flags)", [FEW]),
        ("f = Unique(x)", [FEW]),
        ("f = Unique<axis=1>(x)", [(4, 4), FEW]),
        ("a, f, b, c = Unique(x)", [FEW]),
        ("a, b, f, c = Unique(x)", [(24, 24)]),
        ("a, b, f, c = Unique<axis=1>(x)", [(6, 6)]),
        ("a, b, c, f = Unique(x)", [FEW]),
        ("k = Cast<to=7>(s)  u = Unsqueeze(k, zero)  f, i = TopK(x, u)", [(4, 4), FEW]),
        ("k = Cast<to=7>(s)  u = Unsqueeze(k, zero)  i, f = TopK<axis=0>(x, u)", [FEW, (6, 6)]),
        ("k = Cast<to=7>(s)  u = Unsqueeze(k, zero)  f = Slice(x, zero, u, one)", [(4, 4), FEW]),
        ("n = NonZero(x)  t = Transpose(n)  f = GatherND(x, t)", [FEW]),
        ("n = NonZero(x)  s0 = Shape(n)  k = Gather(s0, one)  f = ConstantOfShape(k)", [FEW]),
    ],
)
def test_what_the_data_decide_over_is_dynamic_and_the_rest_is_known(op: str, expected: list[tuple[int, int]]):
    found = shapes(f"{op}  y = Identity(s)", zero=[0], one=[1])
    assert found.sizes["f"] == tuple(expected)


def test_as_many_boxes_as_are_left_over():
    proto = net(
        """net (float[1,9,4] boxes, float[1,2,9] scores) => (float[K,4] y) {
            s = NonMaxSuppression(boxes, scores, most)  i = Gather<axis=1>(s, two)  b = Squeeze(boxes, zero)
            y = Gather(b, i)
        }""",
        values={"most": np.asarray([5]), "two": np.asarray(2), "zero": np.asarray([0])},
    )
    assert infer(gs.import_onnx(proto)).sizes["y"] == (FEW, (4, 4))


def test_no_value_that_follows_is_taken_for_fixed():
    """At both bindings something is found; at run time there may be nothing."""
    found = shapes(
        """n = NonZero(x)  s0 = Shape(n)  k = Gather(s0, one)  any = Greater(k, zero)  rank = Gather(s0, zero)
           s1 = Shape(x)  y = Identity(s)""",
        zero=[0],
        one=[1],
    )
    assert "s1" in found.fixed
    assert not {"s0", "k", "any", "rank"} & set(found.fixed)


def test_branches_that_find_something_or_nothing_agree_upon_the_rest():
    nothing = helper.make_node(
        "Constant", [], ["n"], value=helper.make_tensor("v", TensorProto.INT64, [0], [])
    )
    some = helper.make_node("NonZero", ["flags"], ["f"])
    flat = helper.make_node("Squeeze", ["f", "zero"], ["g"])
    outs = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in ("n", "g")]
    branches = [
        helper.make_graph([nothing], "nothing", [], outs[:1]),
        helper.make_graph([some, flat], "some", [], outs[1:]),
    ]
    proto = net(
        f"{TEXT} {{ c = Cast<to=9>(s)  f0 = Identity(c)  y = Identity(s) }}", values={"zero": np.asarray([0])}
    )
    proto.graph.node.append(
        helper.make_node("If", ["f0"], ["i"], then_branch=branches[0], else_branch=branches[1])
    )
    found = infer(gs.import_onnx(proto))
    assert found.sizes["i"] == (FEW,)


def detector() -> onnx.ModelProto:
    """Features of the places where the image is bright, classified one by one."""
    return net(
        """net (float[1,3,8,8] x) => (float[K,2] y) {
            a = Conv(x, w1)  bright = ReduceMax<keepdims=0>(x, both)  m = Greater(bright, half)  f = Cast<to=1>(m)
            n = NonZero(f)  at = Transpose(n)  t = Transpose<perm=[2,3,0,1]>(a)  p = GatherND(t, at)
            s = Shape(p)  c = Gather(s, zero)  d = Concat<axis=0>(c, rest)  r = Reshape(p, d)
            h = Gemm(r, w2)  q = Relu(h)  y = Gemm(q, w3)
        }""",
        values={
            "both": np.asarray([0, 1]),
            "half": np.float32(0.5),
            "zero": np.asarray([0]),
            "rest": np.asarray([-1]),
        },
        w1=(6, 3, 1, 1),
        w2=(6, 8),
        w3=(8, 2),
    )


def test_bodies_are_inferred_anew_when_more_is_known_around_them():
    branches = {}
    for name in ("then", "else"):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        inner = [
            helper.make_node("Cast", ["f"], [f"{name}_cast"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"{name}_cast"], [f"{name}_out"], keepdims=0),
        ]
        branches[f"{name}_branch"] = helper.make_graph(inner, name, [], [out])
    proto = net("net (float[4,6] x, bool flag) => (float z) { f = NonZero(x) }")
    proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], **branches))
    found = infer(gs.import_onnx(proto))
    assert found.sizes["then_cast"] == found.sizes["else_cast"] == ((2, 2), FEW)


def test_channels_pass_to_where_something_was_found():
    proto = detector()
    assert sizes(analysed(proto)) == {"w1": 6, "w2": 8}
    assert all(side.equal for side in both_sides(proto, {"w1": (0, 2, 5), "w2": (1, 3, 4, 6)}))


def test_a_sum_that_only_the_right_data_allow_does_no_harm():
    """With five entries, where fewer are supposed."""
    text = """net (float[4,6] x) => (float[4,5] y, float[5] z) {
        a = MatMul(x, w)  y = MatMul(a, v)  n = NonZero(x)  r = ReduceSum<keepdims=0>(n, none)  f = Cast<to=1>(r)
        z = Add(f, five)
    }"""
    values = {"none": np.asarray([0]), "five": np.ones(5, np.float32)}
    found = analysed(net(text, values=values, w=(6, 7), v=(7, 5)))
    assert sizes(found) == {"w": 7}
    assert not because(found, "w", 1)


def test_suppositions_that_inference_contradicts_are_dropped(monkeypatch: pytest.MonkeyPatch):
    plain = onnx.shape_inference.infer_shapes

    def strict(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        if proto.graph.value_info:
            raise onnx.shape_inference.InferenceError("sizes differ")
        return plain(proto, **options)

    monkeypatch.setattr("onnxprune.shapes.binding.infer_shapes", strict)
    found = shapes("n = NonZero(x)  t = Transpose(n)  r = Relu(x)  y = Identity(s)")
    assert "n" not in found.sizes
    assert found.sizes["r"] == ((4, 4), (6, 6))
