import pytest
from onnx import helper
from onnx_text import parsed

from onnxprune import model
from onnxprune.errors import ModelError
from onnxprune.tidy import tidy


def test_nodes_are_sorted_by_dependence_and_otherwise_stay():
    loaded = model.load(
        parsed("net (float[3] x) => (float[3] y) { a = Relu(x)  b = Tanh(x)  y = Add(a, b) }")
    )
    a, b, y = loaded.graph.nodes
    loaded.graph.nodes = [y, b, a]
    tidy(loaded.graph)
    assert [node.op for node in loaded.graph.nodes] == ["Tanh", "Relu", "Add"]


def test_nodes_that_only_a_subgraph_reads_stay():
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "a"], ["sum"])],
        "body",
        [],
        [helper.make_tensor_value_info("sum", 1, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("If", ["f"], ["y"], then_branch=body, else_branch=body),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, [3]), helper.make_tensor_value_info("f", 9, [])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    loaded = model.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    tidy(loaded.graph)
    assert [node.op for node in loaded.graph.nodes] == ["Relu", "If"]


def test_a_cycle_is_refused():
    loaded = model.load(parsed("net (float[3] x) => (float[3] y) { a = Relu(x)  y = Relu(a) }"))
    first, second = loaded.graph.nodes
    first.inputs[0] = second.outputs[0]
    with pytest.raises(ModelError, match="has a cycle"):
        tidy(loaded.graph)
