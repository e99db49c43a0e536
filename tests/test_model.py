import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx_text import RELU, parsed
from small_models import conv_net
from strategies import random_model
from text_nets import same_weights

from onnxprune import model
from onnxprune.errors import OutputError
from onnxprune.tidy import tidy


def round_trip(proto: onnx.ModelProto) -> onnx.ModelProto:
    return model.to_proto(model.load(proto))


def noted() -> onnx.ModelProto:
    """A model with everything that a graph library might lose."""
    proto = conv_net()
    proto.producer_name, proto.producer_version = "acme", "1.2"
    proto.domain, proto.model_version, proto.doc_string = "com.acme", 7, "a small net"
    helper.set_model_props(proto, {"labels": "cat,dog,cow", "author": "me"})
    proto.graph.doc_string = "its graph"
    proto.graph.metadata_props.add(key="where", value="graph")
    proto.graph.node[0].doc_string = "the first layer"
    proto.graph.node[0].metadata_props.add(key="source", value="line 3")
    note = proto.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="first.bias")
    return proto


FACTS = [
    "ir_version",
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "metadata_props",
]


@pytest.mark.parametrize("fact", [*FACTS, "opset_import"])
def test_what_the_file_says_of_itself_survives(fact: str):
    assert getattr(round_trip(noted()), fact) == getattr(noted(), fact)


@pytest.mark.parametrize(
    "fact", ["name", "doc_string", "metadata_props", "quantization_annotation", "input", "output"]
)
def test_what_the_graph_says_of_itself_survives(fact: str):
    assert getattr(round_trip(noted()).graph, fact) == getattr(noted().graph, fact)


def test_notes_on_nodes_survive():
    node = round_trip(noted()).graph.node[0]
    assert node.doc_string == "the first layer"
    assert [(entry.key, entry.value) for entry in node.metadata_props] == [("source", "line 3")]


def test_notes_follow_their_node_when_others_go():
    proto = parsed("net (float[N,3] x) => (float[N,3] y) { a = Tanh(x)  b = Sigmoid(x)  y = Relu(b) }")
    for node in proto.graph.node:
        node.doc_string = f"the {node.op_type}"
    loaded = model.load(proto)
    tidy(loaded.graph)
    assert [node.doc_string for node in model.to_proto(loaded).graph.node] == ["the Sigmoid", "the Relu"]


@pytest.mark.parametrize("seed", range(8))
def test_nodes_and_weights_survive(seed: int):
    proto = random_model(seed)
    ours = round_trip(proto)
    onnx.checker.check_model(ours, full_check=True)
    assert [(n.op_type, list(n.input), list(n.output)) for n in ours.graph.node] == [
        (n.op_type, list(n.input), list(n.output)) for n in proto.graph.node
    ]
    assert same_weights(ours, proto)


def test_initializers_that_are_inputs_too_stay_both():
    proto = conv_net()
    proto.graph.input.append(helper.make_tensor_value_info("head.bias", TensorProto.FLOAT, [3]))
    ours = round_trip(proto)
    assert [value.name for value in ours.graph.input] == ["image", "head.bias"]
    assert "head.bias" in {tensor.name for tensor in ours.graph.initializer}


def test_a_file_of_ir_version_3_lists_every_initializer_as_input():
    proto = conv_net()
    proto.ir_version = 3
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", 8))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    ours = round_trip(proto)
    onnx.checker.check_model(ours)
    assert sorted(value.name for value in ours.graph.input) == sorted(
        value.name for value in proto.graph.input
    )
    assert len(model.load(proto).graph.inputs) == 1


@pytest.mark.parametrize(
    "dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT4]
)
def test_weights_of_every_type_survive(dtype: int):
    tensor = helper.make_tensor("w", dtype, [3], [1, -2, 3])
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["c"], to=1), helper.make_node("Add", ["x", "c"], ["y"])],
        "typed",
        [helper.make_tensor_value_info("x", 1, [3])],
        [helper.make_tensor_value_info("y", 1, [3])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (ours,) = round_trip(proto).graph.initializer
    assert ours.data_type == dtype
    assert numpy_helper.to_array(ours).astype(np.float32).tolist() == [1, -2, 3]


def test_the_files_own_functions_are_written_out_where_they_are_called():
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18, "my": 1]>
        net (float[N,3] x) => (float[N,3] y) { a = my.Steep<slope=0.2>(x)  y = my.Steep<slope=0.1>(a) }
        <domain: "my", opset_import: ["": 18]>
        Steep <slope> (x) => (y) { t = LeakyRelu<alpha: float=@slope>(x)  y = Neg(t) }
    """)
    written = model.to_proto(model.load(proto))
    assert [node.op_type for node in written.graph.node] == ["LeakyRelu", "Neg", "LeakyRelu", "Neg"]
    assert not written.functions
    assert len({node.name for node in written.graph.node}) == 4


def test_a_model_proto_is_not_changed():
    proto = conv_net()
    loaded = model.load(proto)
    loaded.graph.nodes[0].inputs[1].values[:] = 0
    loaded.graph.nodes.pop()
    assert proto == conv_net()


def test_every_node_gets_a_name_of_its_own():
    proto = parsed("net (float[3] x) => (float[3] y) { a = Relu(x)  b = Relu(a)  c = Relu(b)  y = Relu(c) }")
    proto.graph.node[1].name = proto.graph.node[2].name = "same"
    proto.graph.node[3].name = "Relu_a"
    names = [node.name for node in model.load(proto).graph.nodes]
    assert len(set(names)) == 4
    assert all(names)


# ---- files


def test_saving_and_loading_gives_the_same_model(tmp_path: Path):
    size = model.save(model.load(noted()), tmp_path / "out.onnx")
    assert size == (tmp_path / "out.onnx").stat().st_size
    assert onnx.load(tmp_path / "out.onnx") == round_trip(noted())


def test_a_model_too_large_for_one_file_goes_into_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "TWO_GIB", 4000)
    size = model.save(conv_net(width=16), tmp_path / "out.onnx")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["out.onnx", "out.onnx.data"]
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    light = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert any(uses_external_data(tensor) for tensor in light.graph.initializer)
    assert same_weights(model.to_proto(model.load(tmp_path / "out.onnx")), conv_net(width=16))


def test_saving_a_large_model_leaves_the_object_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "TWO_GIB", 4000)
    proto = conv_net(width=16)
    model.save(proto, tmp_path / "out.onnx")
    assert proto == conv_net(width=16)


def full_disk(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, step, full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        model.save(RELU, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failed_json_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "plan.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, step, full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        model.write_text(path, {"a": 1})
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        model.save(RELU, path, force=False)
    model.save(RELU, path, force=True)
    assert onnx.load(path).graph.node[0].op_type == "Relu"


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match=r"folder .*nowhere does not exist"):
        model.save(RELU, tmp_path / "nowhere" / "out.onnx")
