import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from small import cnn, draw, gate_function, in_onnxruntime, in_torch, model

from onnxprune.errors import ConversionError, ModelError
from onnxprune.to_torch import load


def test_computes_what_the_file_computes() -> None:
    x = draw(3, 3, 8, 8)
    (ours,), (theirs,) = in_torch(load(cnn()), x), in_onnxruntime(cnn(), x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_loads_from_a_path_and_resolves_external_data_beside_it(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    x = draw(2, 3, 8, 8)
    np.testing.assert_array_equal(in_torch(load(tmp_path / "m.onnx"), x)[0], in_torch(load(cnn()), x)[0])


@pytest.mark.parametrize("content", [None, b"no model"])
def test_an_unreadable_file_is_a_model_error_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        load(path)


def test_parameters_have_the_initializers_names() -> None:
    module = load(cnn(gated=True))
    assert set(dict(module.named_parameters())) == {
        "stem.conv.weight", "bn.weight", "bn.bias", "/blocks.0/conv:weight", "/blocks.0/conv:bias",
        "head.weight", "head.bias", "gate/stem",
    }  # fmt: skip
    assert set(dict(module.named_buffers())) == {"bn.mean", "bn.var"}
    assert set(module.state_dict()) == {n.name for n in cnn(gated=True).graph.initializer} - {"layout"}


def test_several_inputs_and_outputs_keep_their_order() -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Add", ["a", "b"], ["s"])]
    module = load(model(nodes, {"b": [2], "a": [2]}, ["s", "d"]))
    total, difference = module(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
    assert total.tolist() == [11, 22]
    assert difference.tolist() == [9, 18]


def test_values_inside_the_graph_come_behind_its_outputs() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["m"]),
        helper.make_node("Neg", ["m"], ["y"]),
    ]
    x = torch.tensor([1.0, -2.0])
    y, m, s, same = load(model(nodes, {"x": [2]}, ["y"]), also=["m", "s", "y"])(x)
    assert s.tolist() == x.sigmoid().tolist()
    assert m.tolist() == (x * x.sigmoid()).tolist()
    assert same.tolist() == y.tolist() == (-m).tolist()


def test_a_value_that_no_node_makes_is_refused() -> None:
    with pytest.raises(ConversionError, match="no node of the graph makes a value 'x'"):
        load(model([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, ["y"]), also=["x"])


def test_the_given_model_stays_as_it_is() -> None:
    given = cnn()
    before = given.SerializeToString()
    load(given, also=[given.graph.node[0].output[0]])
    assert given.SerializeToString() == before


def test_shared_initializers_are_one_parameter() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    module = load(model(nodes, {"x": [1, 2]}, ["y"], {"w": draw(2, 2)}))
    assert len(list(module.parameters())) == 1


def test_numbers_of_formulas_and_masks_are_not_trained() -> None:
    nodes = [
        helper.make_node("Div", ["x", "root"], ["h"]),
        helper.make_node("Add", ["h", "mask"], ["m"]),
        helper.make_node("Mul", ["m", "slope"], ["y"]),
    ]
    values = {"root": np.float32(8), "mask": np.array([0, -np.inf], np.float32), "slope": draw(1)}
    module = load(model(nodes, {"x": [1, 2]}, ["y"], {n: np.asarray(v) for n, v in values.items()}))
    assert [name for name, _ in module.named_parameters()] == ["slope"]
    assert {name for name, _ in module.named_buffers()} == {"root", "mask"}


def test_a_factor_that_the_exporter_named_is_not_trained_but_one_of_the_network_is() -> None:
    nodes = [helper.make_node("Mul", ["x", "val_7"], ["h"]), helper.make_node("Mul", ["h", "scale"], ["y"])]
    values = {"val_7": np.array([0.35], np.float32), "scale": np.array([2.0], np.float32)}
    module = load(model(nodes, {"x": [1, 2]}, ["y"], values))
    assert [name for name, _ in module.named_parameters()] == ["scale"]
    assert set(module.state_dict()) == {"val_7", "scale"}


def test_constant_operands_are_python_numbers_in_the_graph() -> None:
    nodes = [
        helper.make_node("Constant", [], ["minus"], value_ints=[-1]),
        helper.make_node("Concat", ["minus", "four"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    module = load(model(nodes, {"x": ["N", 2, 4]}, ["y"], {"four": np.array([4])}))
    (call,) = [n for n in module.graph.nodes if n.op == "call_function"]
    assert call.args[1] == [-1, 4]


def test_functions_of_the_model_are_written_out_but_gates_stay() -> None:
    double = helper.make_function(
        "own",
        "Double",
        ["v"],
        ["d"],
        [helper.make_node("Add", ["v", "v"], ["d"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Double", ["x"], ["h"], domain="own"),
        helper.make_node("Gate", ["h", "w"], ["y"], domain="onnxprune", to=1),
    ]
    made = model(nodes, {"x": [2]}, ["y"], {"w": np.array([1, -1], np.float32)},
                 functions=[double, gate_function()])  # fmt: skip
    module = load(made)
    assert [n.op for n in module.graph.nodes if n.op.startswith("call")] == ["call_function", "call_module"]
    assert module(torch.tensor([1.0, 1.0])).tolist() == [2, 0]


def test_every_node_that_cannot_be_expressed_is_named_in_one_error() -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("StringNormalizer", ["b"], ["c"], name="second"),
        helper.make_node("Relu", ["b"], ["y"], name="third", slope=2),
    ]
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    made.graph.ClearField("node")
    made.graph.node.extend(nodes)
    made.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ConversionError) as caught:
        load(made)
    message = str(caught.value)
    assert message.startswith("3 nodes cannot be expressed in PyTorch: ")
    assert "'first' (acme.Frobnicate-1: no converter)" in message
    assert "'second' (StringNormalizer-17: no converter)" in message
    assert "'third' (Relu-17: attribute 'slope' is not supported)" in message
    assert "fine" not in message
    assert "\n" not in message


def test_an_opset_out_of_range_says_which_are_known() -> None:
    made = cnn()
    made.opset_import[0].version = 99
    with pytest.raises(ConversionError, match="has opset 99, PyTorch re-import knows 1 to"):
        load(made)


def test_comes_in_eval_mode() -> None:
    assert not any(m.training for m in load(cnn()).modules())


def test_compiles_in_one_piece_for_every_batch_size() -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "minus"], ["shape"], axis=0),
        node("Reshape", ["c", "shape"], ["y"]),
    ]
    values = {"w": draw(4, 3, 3, 3), "zero": np.array(0), "axes": np.array([0]), "minus": np.array([-1])}
    made = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], values)
    module = load(made)
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        x = draw(batch, 3, 6, 6)
        np.testing.assert_allclose(in_torch(compiled, x)[0], in_onnxruntime(made, x)[0], rtol=1e-5, atol=1e-6)


def test_is_at_hand_without_an_import_of_its_own() -> None:
    code = "import onnxprune, sys; assert 'torch' not in sys.modules; print(onnxprune.to_torch.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "load\n"
