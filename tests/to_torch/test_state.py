import copy
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import cnn, draw, in_onnxruntime, in_onnxruntime_file, in_torch, model

from onnxprune.errors import ModelError, TrainingError
from onnxprune.model import save
from onnxprune.to_torch import load, write_back
from onnxprune.to_torch.operands import to_bytes, to_tensor

ODD = [
    "",
    "view",
    "view_1",
    "val_0",
    "forward",
    "a",
    "a.b",
    ".x",
    "y.",
    "p..q",
    "class",
    "training",
    'quote"d',
    "back\\slash",
    "1",
    "/m/w:0",
]


def odd_model() -> onnx.ModelProto:
    """A chain of additions, one initializer of each odd name; ONNX itself cannot refer to an empty one."""
    names = [n for n in ODD if n]
    values = ["x", *(f"sum{i}" for i in range(len(names) - 1)), "y"]
    nodes = [
        helper.make_node("Add", [values[i], n], [values[i + 1]], name=f"add{i}") for i, n in enumerate(names)
    ]
    return model(nodes, {"x": [2]}, ["y"], {n: draw(2, seed=i) for i, n in enumerate(names)})


def test_an_untouched_module_gives_the_same_bytes_back() -> None:
    made = cnn(gated=True)
    assert write_back(load(made), made).SerializeToString() == made.SerializeToString()


def test_leaves_the_model_it_is_given_as_it_was() -> None:
    made = cnn()
    before, module = made.SerializeToString(), load(made)
    with torch.no_grad():
        module.get_parameter("head.bias").add_(1)
    write_back(module, made)
    assert made.SerializeToString() == before


def test_writes_weights_and_statistics_and_nothing_else() -> None:
    made = cnn(gated=True)
    module = load(made).train()
    x = torch.from_numpy(draw(4, 3, 8, 8))
    module(x)
    with torch.no_grad():
        module.get_parameter("head.bias").add_(1)
        module.get_parameter("gate/stem").neg_()
    written = write_back(module, made)
    changed = [
        new.name
        for new, old in zip(written.graph.initializer, made.graph.initializer, strict=True)
        if new != old
    ]
    assert changed == ["bn.mean", "bn.var", "head.bias", "gate/stem"]
    written.graph.ClearField("initializer")
    made.graph.ClearField("initializer")
    assert written == made


def test_what_was_trained_is_what_onnxruntime_computes() -> None:
    made, x = cnn(gated=True), draw(4, 3, 8, 8)
    module = load(made, gate_value=torch.sigmoid).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.from_numpy(x)).square().mean().backward()
        optimizer.step()
    written = write_back(module, made)
    np.testing.assert_allclose(
        in_torch(load(written), x)[0], in_onnxruntime(written, x)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", [n for n in ODD if n])
def test_every_name_is_a_state_dict_key_and_comes_back(name: str) -> None:
    made = odd_model()
    module = load(made)
    state = module.state_dict()
    assert set(state) == {n for n in ODD if n}
    state[name] = state[name] + 1
    other = load(made)
    other.load_state_dict(state)
    before = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    after = {i.name: numpy_helper.to_array(i) for i in write_back(other, made).graph.initializer}
    np.testing.assert_array_equal(after.pop(name), before.pop(name) + np.float32(1))
    assert all(np.array_equal(after[n], before[n]) for n in before)


def test_odd_names_compute() -> None:
    x = draw(2)
    np.testing.assert_allclose(
        in_torch(load(odd_model()), x)[0], in_onnxruntime(odd_model(), x)[0], rtol=1e-5
    )


def test_a_deep_copy_writes_back_too() -> None:
    made = odd_model()
    assert write_back(copy.deepcopy(load(made)), made) == made


class DataParallel(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrap", [torch.compile, DataParallel, lambda m: DataParallel(torch.compile(m))])
def test_a_wrapped_module_writes_back_too(wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    made = cnn()
    module = load(made)
    with torch.no_grad():
        module.get_parameter("head.bias").add_(1)
    assert write_back(wrap(module), made) == write_back(module, made) != made


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_names_the_tensor_that_training_ruined(bad: float) -> None:
    made = cnn()
    module = load(made)
    with torch.no_grad():
        module.get_parameter("head.weight")[0, 0] = bad
    with pytest.raises(TrainingError, match=r"'head\.weight' holds NaN or infinity"):
        write_back(module, made)


def test_infinities_of_the_file_itself_pass() -> None:
    mask = np.array([0, -np.inf], np.float32)
    made = model([helper.make_node("Add", ["x", "mask"], ["y"])], {"x": [2]}, ["y"], {"mask": mask})
    assert write_back(load(made), made) == made


def _renamed() -> onnx.ModelProto:
    other = cnn()
    other.graph.initializer[0].name = "elsewhere"
    return other


def _reshaped() -> onnx.ModelProto:
    other = cnn()
    other.graph.initializer[-1].CopyFrom(numpy_helper.from_array(draw(6), "head.bias"))
    return other


@pytest.mark.parametrize(("other", "message"), [(_renamed, "no initializer"), (_reshaped, "head.bias")])
def test_refuses_another_model(other: Callable[[], onnx.ModelProto], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        write_back(load(cnn()), other())


def test_refuses_a_module_of_another_origin() -> None:
    with pytest.raises(ModelError, match="not made by"):
        write_back(torch.nn.Linear(2, 2), cnn())


def test_values_kept_outside_a_model_in_memory_want_the_path() -> None:
    made = cnn()
    module = load(made)
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ModelError, match="write back into the file's path"):
        write_back(module, made)


def test_external_data_stay_where_they_lie(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    onnx.save(cnn(), path, save_as_external_data=True, size_threshold=100, location="weights")
    module = load(path)
    save(write_back(module, path), out)
    assert [(out.parent / name).read_bytes() for name in ("m.onnx", "weights")] == [
        (tmp_path / name).read_bytes() for name in ("m.onnx", "weights")
    ]
    with torch.no_grad():
        module.get_parameter("stem.conv.weight").add_(1)
    save(write_back(module, path), out)
    assert out.read_bytes() == path.read_bytes()  # the same places in a file of other bytes
    assert (out.parent / "weights").read_bytes() != (tmp_path / "weights").read_bytes()
    x = draw(2, 3, 8, 8)
    np.testing.assert_allclose(in_torch(module, x)[0], in_onnxruntime_file(out, x)[0], rtol=1e-4, atol=1e-5)


def test_external_data_of_nodes_stay_where_they_lie_too(tmp_path: Path) -> None:
    held = numpy_helper.from_array(draw(64), "held")
    nodes = [helper.make_node("Constant", [], ["c"], value=held), helper.make_node("Add", ["x", "c"], ["y"])]
    path, out = tmp_path / "m.onnx", tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    onnx.save(
        model(nodes, {"x": [64]}, ["y"]), path, save_as_external_data=True, size_threshold=0, location="weights",
        convert_attribute=True,
    )  # fmt: skip
    save(write_back(load(path), path), out)
    assert [(out.parent / name).read_bytes() for name in ("m.onnx", "weights")] == [
        (tmp_path / name).read_bytes() for name in ("m.onnx", "weights")
    ]


def test_a_file_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    module = load(cnn())
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be read"):
        write_back(module, tmp_path / "gone.onnx")


def test_weights_behind_chains_of_views_and_casts_train_as_they_are_stored() -> None:
    nodes = [
        helper.make_node("Identity", ["stored"], ["same"]),
        helper.make_node("Reshape", ["same", "square"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    values = {"stored": draw(12).astype(np.float16), "square": np.array([3, 4])}
    made = model(nodes, {"x": ["N", 4]}, ["y"], values)
    module, x = load(made), draw(2, 4, seed=1)
    (parameter,) = module.parameters()
    assert (parameter.dtype, parameter.shape) == (torch.float16, (12,))
    module(torch.from_numpy(x)).sum().backward()
    torch.optim.SGD([parameter], 0.1).step()
    written = write_back(module, made)
    assert not np.array_equal(numpy_helper.to_array(written.graph.initializer[0]), values["stored"])
    np.testing.assert_allclose(in_torch(module, x)[0], in_onnxruntime(written, x)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        np.float64,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        np.int8,
        np.uint16,
        np.bool_,
        ml_dtypes.int4,
        ml_dtypes.uint2,
        ml_dtypes.float4_e2m1fn,
        ml_dtypes.float8_e8m0fnu,
    ],
    ids=lambda d: np.dtype(d).name,
)
def test_every_element_type_goes_to_torch_and_back_bit_for_bit(dtype: type) -> None:
    array = (np.abs(draw(3, 4)) * 2).astype(dtype)
    proto = numpy_helper.from_array(array)
    tensor = to_tensor(proto)
    assert tensor.shape == (3, 4)
    assert to_bytes(tensor, proto.data_type) == proto.raw_data


def test_tensors_stored_as_typed_fields_keep_their_encoding_until_they_change() -> None:
    made = cnn()
    bias = made.graph.initializer[-1]
    bias.CopyFrom(helper.make_tensor("head.bias", TensorProto.FLOAT, [5], [1, 2, 3, 4, 5]))
    module = load(made)
    assert write_back(module, made) == made
    with torch.no_grad():
        module.get_parameter("head.bias").zero_()
    written = write_back(module, made).graph.initializer[-1]
    assert not written.float_data
    assert numpy_helper.to_array(written).tolist() == [0] * 5


@pytest.mark.parametrize("name", ["add", "add_1", "val_0"])
def test_a_weight_named_as_the_exporter_names_values_exports_anew(name: str) -> None:
    nodes = [
        helper.make_node("Add", ["x", name], ["view_1"]),
        helper.make_node("Add", ["view_1", name], ["view_2"]),
        helper.make_node("Selu", ["view_2"], ["y"]),
    ]
    made = model(nodes, {"x": [2, 3]}, ["y"], {name: draw(3, seed=1)})
    module, x = load(made), torch.from_numpy(draw(2, 3))
    program = torch.export.export(module, (x,))
    anew = torch.onnx.export(program, (x,), dynamo=True, verbose=False, optimize=False)
    torch.testing.assert_close(in_onnxruntime(anew.model_proto, x.numpy()), in_onnxruntime(made, x.numpy()))
    assert set(module.state_dict()) == {name}


def test_weights_named_as_ops_keep_their_names_in_files_of_other_exporters() -> None:
    made = model([helper.make_node("Add", ["x", "mean"], ["y"])], {"x": [2, 3]}, ["y"], {"mean": draw(3)})
    assert list(dict(load(made).named_parameters())) == ["mean"]
