import onnx
from onnx import helper, parser

from onnxprune import gates, groups, model
from onnxprune.scopes import graphs, tensors


def branching() -> model.Model:
    """Both branches call what they hold by the same names."""
    bodies = []
    for _ in range(2):
        inner = [helper.make_node("Relu", ["h"], ["r"], name="act"), helper.make_node("Neg", ["r"], ["out"])]
        output = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
        bodies.append(helper.make_graph(inner, "branch", [], [output]))
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        net (float[N,3] x, bool flag) => (float[N,3] y) { h = Neg(x)  y = Neg(z) }
    """)
    branch = helper.make_node("If", ["flag"], ["z"], name="if", then_branch=bodies[0], else_branch=bodies[1])
    proto.graph.node.insert(1, branch)
    return model.load(proto)


def test_bodies_come_after_the_graph_around_them():
    loaded = branching()
    assert [graph.name for graph in graphs(loaded.graph)] == ["net", "branch", "branch"]


def test_two_branches_that_use_one_name_get_two():
    loaded = branching()
    groups.find(loaded)
    inner = [node for graph in list(graphs(loaded.graph))[1:] for node in graph.nodes]
    assert len({node.name for node in inner}) == len({node.outputs[0].name for node in inner}) == 4
    assert set(tensors(loaded.graph)) >= {node.outputs[0].name for node in inner} | {"h", "y"}
    onnx.checker.check_model(model.to_proto(loaded), full_check=True)


def test_gates_inside_a_body_come_out_again():
    weights = [
        helper.make_tensor(name, onnx.TensorProto.FLOAT, [4, 4], [0.5] * 16) for name in ("w1", "w2", "w3")
    ]
    inner = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"]),
        helper.make_node("MatMul", ["b", "w3"], ["out"]),
    ]
    output = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    bodies = [helper.make_graph(inner, name, [], [output], initializer=weights) for name in ("then", "else")]
    node = helper.make_node("If", ["flag"], ["y"], name="if", then_branch=bodies[0], else_branch=bodies[1])
    graph = helper.make_graph(
        [node],
        "net",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
    )
    opsets = [helper.make_opsetid("", 18)]
    loaded = model.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    found = groups.find(loaded)
    assert [group.size for group in found] == [4, 4, 4, 4]
    before = model.to_proto(loaded).SerializeToString(deterministic=True)
    assert gates.insert(found, {}) == 4
    assert [n.op for n in list(graphs(loaded.graph))[1].nodes] == ["MatMul", "Gate", "MatMul", "Gate", "MatMul"]
    gates.strip(loaded)
    assert model.to_proto(loaded).SerializeToString(deterministic=True) == before
