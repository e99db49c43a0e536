import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from strategies import random_inputs, random_model
from text_nets import net

from onnxprune import model
from onnxprune.model import Model
from onnxprune.prepare import COPIED, prepare


def prepared(proto: onnx.ModelProto) -> Model:
    loaded = model.load(proto)
    prepare(loaded)
    return loaded


def ops(found: Model) -> list[str]:
    return [node.op for node in found.graph.nodes]


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


# ---- constants


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("value = float[2] {1.5, 2.5}", np.asarray([1.5, 2.5], np.float32)),
        ("value_float = 1.5", np.float32(1.5)),
        ("value_floats = [1.5, 2.5]", np.asarray([1.5, 2.5], np.float32)),
    ],
)
def test_constant_nodes_become_initializers(attribute: str, value: np.ndarray):
    found = prepared(
        net(f"net (float[N,2] x) => (float[N,2] y) {{ c = Constant<{attribute}>()  y = Add(x, c) }}")
    )
    assert ops(found) == ["Add"]
    constant = found.graph.nodes[0].inputs[1]
    assert isinstance(constant, gs.Constant)
    np.testing.assert_array_equal(constant.values, value)
    assert constant.values.dtype == value.dtype


@pytest.mark.parametrize(("attribute", "value"), [("value_int = 3", 3), ("value_ints = [3, 4]", [3, 4])])
def test_integer_constants_are_int64(attribute: str, value: list[int]):
    found = prepared(
        net(f"net (int64[N,2] x) => (int64[N,2] y) {{ c = Constant<{attribute}>()  y = Add(x, c) }}")
    )
    constant = found.graph.nodes[0].inputs[1]
    assert constant.values.dtype == np.int64
    assert constant.values.tolist() == value


def test_a_constant_that_is_an_output_stays_a_node():
    found = prepared(
        net("net (float[2] x) => (float[2] y, float c) { c = Constant<value_float = 1.5>()  y = Add(x, c) }")
    )
    assert ops(found) == ["Constant", "Add"]
    onnx.checker.check_model(model.to_proto(found))


# ---- weights


@pytest.mark.parametrize(
    "making",
    [
        "w = Identity(v)",
        "w = Transpose<perm=[1,0]>(u)",
        "d = Cast<to=11>(v)  w = Cast<to=1>(d)",
        "m = ReduceMean(v)  w = Sub(v, m)",
        "m = ReduceMean(v)  c = Sub(v, m)  q = Mul(c, c)  s = ReduceMean(q)  r = Sqrt(s)  w = Div(c, r)",
        "h = Slice(v, zero, four, zero)  w = Concat<axis=0>(h, h)",
    ],
)
def test_subgraphs_that_only_see_weights_are_folded(making: str):
    proto = net(
        f"""net (float[N,8] x) => (float[N,5] y) <int64[1] zero = {{0}}, int64[1] four = {{4}}> {{
            {making}  y = MatMul(x, w)
        }}""",
        v=(8, 5),
        u=(5, 8),
    )
    found = prepared(proto)
    assert ops(found) == ["MatMul"]
    feed = random_inputs(proto, 0)
    np.testing.assert_allclose(run(model.to_proto(found), feed)[0], run(proto, feed)[0], rtol=1e-5, atol=1e-6)


def test_a_weight_that_would_grow_beyond_its_file_stays_computed():
    proto = net(
        "net (float[N,400] x) => (float[N,400] y) { w = MatMul(a, b)  y = MatMul(x, w) }",
        a=(400, 2),
        b=(2, 400),
    )
    assert ops(prepared(proto)) == ["MatMul", "MatMul"]


def test_random_weights_are_not_made_constant():
    proto = net("net (float[N,4] x) => (float[N,4] y) { r = RandomNormalLike(b)  y = Add(x, r) }", b=(4,))
    assert ops(prepared(proto)) == ["RandomNormalLike", "Add"]


def test_quantised_weights_stay_quantised():
    proto = net(
        "net (float[N,8] x) => (float[N,5] y) { w = DequantizeLinear(q, s)  y = MatMul(x, w) }",
        values={"q": np.ones((8, 5), np.int8), "s": np.float32(0.1)},
    )
    assert ops(prepared(proto)) == ["DequantizeLinear", "MatMul"]


# ---- shape arithmetic


def test_shape_arithmetic_that_is_the_same_for_every_input_is_folded():
    proto = net(
        """net (float[N,6,4] x) => (float[N,24] y) <int64 one = {1}, int64 two = {2}, int64[1] zero = {0}> {
            s = Shape(x)  c = Gather(s, one)  l = Gather(s, two)  m = Mul(c, l)  u = Unsqueeze(m, zero)
            n = Slice(s, zero, ten)  to = Concat<axis=0>(n, u)  y = Reshape(x, to)
        }""",
        values={"ten": np.asarray([1])},
    )
    found = prepared(proto)
    assert ops(found) == ["Reshape"]  # the batch is left to a -1
    feed = random_inputs(proto, 0, batch=5)
    np.testing.assert_array_equal(run(model.to_proto(found), feed)[0], run(proto, feed)[0])


def test_a_size_that_the_computation_divides_by_is_folded_to_its_value():
    proto = net(
        """net (float[N,6] x) => (float[N,6] y) <int64 one = {1}> {
            s = Shape(x)  c = Gather(s, one)  f = Cast<to=1>(c)  r = Sqrt(f)  y = Div(x, r)
        }"""
    )
    found = prepared(proto)
    assert ops(found) == ["Div"]
    np.testing.assert_allclose(found.graph.nodes[0].inputs[1].values, 6**0.5, rtol=1e-6)


def test_nodes_that_nothing_reads_go_away():
    found = prepared(net("net (float[N,3] x) => (float[N,3] y) { a = Tanh(x)  b = Sigmoid(a)  y = Relu(x) }"))
    assert ops(found) == ["Relu"]


# ---- shared initializers


def shared(rows: int, columns: int) -> Model:
    return prepared(
        net(
            "net (float[N,A] x, float[N,A] z) => (float[N,B] y) { a = MatMul(x, w)  b = MatMul(z, w)  y = Add(a, b) }",
            w=(rows, columns),
        )
    )


def test_a_small_initializer_is_copied_for_every_reader():
    first, second = (node.inputs[1] for node in shared(4, 5).graph.nodes[:2])
    assert first.name != second.name
    np.testing.assert_array_equal(first.values, second.values)


def test_a_large_initializer_stays_tied():
    first, second = (node.inputs[1] for node in shared(COPIED // 64, 65).graph.nodes[:2])
    assert first is second


def test_an_operand_read_twice_by_one_node_is_copied_too():
    found = prepared(net("net (float[N,4] x) => (float[N,4] y) { y = Sum(b, x, b) }", b=(4,)))
    names = [tensor.name for tensor in found.graph.nodes[0].inputs]
    assert len(set(names)) == 3


def test_a_copy_never_takes_the_name_of_another_tensor():
    """Files that were prepared before and written hold names such as `w__1`."""
    proto = net(
        "net (float[N,4] x) => (float[N,4] y) { a = Add(x, b)  c = Mul(a, b__1)  y = Add(c, b) }",
        b=(4,),
        b__1=(4,),
    )
    found = prepared(proto)
    names = [tensor.name for node in found.graph.nodes for tensor in node.inputs[1:]]
    assert len(set(names)) == 3
    feed = random_inputs(proto, 0)
    np.testing.assert_allclose(run(model.to_proto(found), feed)[0], run(proto, feed)[0], rtol=1e-6)


def test_what_a_subgraph_reads_keeps_its_name():
    proto = with_branch()
    found = prepared(proto)
    feed = {"x": np.ones((2, 4), np.float32), "flag": np.asarray(True)}
    np.testing.assert_allclose(run(model.to_proto(found), feed)[0], run(proto, feed)[0])


def with_branch() -> onnx.ModelProto:
    """y = x + b, and again + b or - b inside an If."""
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["a", "b"], [op])], op, [], [helper.make_tensor_value_info(op, 1, None)]
        )
        for op in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "branch",
        [helper.make_tensor_value_info("x", 1, ["N", 4]), helper.make_tensor_value_info("flag", 9, [])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- all of it


@pytest.mark.parametrize("seed", range(12))
def test_preparing_twice_changes_nothing_and_once_not_the_function(seed: int):
    proto = random_model(seed)
    once = prepared(proto)
    first = model.to_proto(once)
    prepare(once)
    assert model.to_proto(once) == first
    again = prepared(first)
    assert model.to_proto(again) == first
    feed = random_inputs(proto, seed)
    for ours, theirs in zip(run(first, feed), run(proto, feed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
