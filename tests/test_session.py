from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu import needs_cuda, needs_no_cuda
from onnx_text import RELU, parsed
from strategies import random_model

from onnxprune.apart import take_apart
from onnxprune.errors import ModelError, ProviderError
from onnxprune.session import (
    batch_axes,
    declared_inputs,
    fixed_batch,
    open_session,
    random_inputs,
    reason,
    write,
)


def with_external_weight(folder: Path, location: str) -> Path:
    model = parsed("net (float[N,3] x) => (float[N,3] y) <float[3] w = {1,2,3}> { y = Add(x, w) }")
    (weight,) = model.graph.initializer
    del weight.float_data[:]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value="12")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_proto_and_its_file_compute_the_same(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(RELU, path)
    x = np.array([[-1, 2, -3]], np.float32)
    for source in (RELU, path, str(path)):
        np.testing.assert_array_equal(open_session(source, threads=1).run(None, {"x": x})[0], [[0, 2, 0]])


def test_external_data_is_read_from_beside_the_model_whatever_the_working_directory(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    path = with_external_weight(folder, "weights.bin")
    (folder / "weights.bin").write_bytes(np.array([5, 6, 7], np.float32).tobytes())
    monkeypatch.chdir(elsewhere)
    (y,) = open_session(path).run(None, {"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(y, [[5, 6, 7]])


def test_external_data_outside_the_model_folder_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    with pytest.raises(ModelError, match=r"model\.onnx: onnxruntime cannot load it .*escapes"):
        open_session(with_external_weight(folder, "../secret.bin"))


@pytest.mark.parametrize("large", [64, 1 << 30], ids=["apart", "whole"])
@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_computes_the_same_however_its_weights_are_handed_over(
    seed, optimize, lean, large, tmp_path, monkeypatch
):
    monkeypatch.setattr("onnxprune.apart.LARGE", large)
    proto = random_model(seed)
    onnx.save(proto, tmp_path / "model.onnx")
    feed = random_inputs(proto, batch=2, seed=0)
    expected = open_session(tmp_path / "model.onnx", optimize=optimize).run(None, feed)
    for source in (proto, take_apart(proto)):
        outputs = open_session(source, optimize=optimize, lean=lean).run(None, feed)
        for x, y in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int32, np.uint64])
def test_weights_of_every_plain_type_are_handed_over(dtype, monkeypatch):
    monkeypatch.setattr("onnxprune.apart.LARGE", 0)
    model = parsed("net (float[N,3] x) => (float[N,3] y) { c = Cast<to = 1>(w)  y = Add(x, c) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([1, 2, 3], dtype), "w"))
    assert take_apart(model).weights.keys() == {"w"}
    (y,) = open_session(model).run(None, {"x": np.zeros((1, 3), np.float32)})
    assert y.tolist() == [[1, 2, 3]]


def test_a_shape_of_any_length_is_known_when_shapes_are_inferred():
    body = "s = SplitToSequence<axis = 1>(x, n)  y = SequenceAt(s, i)"
    model = parsed(f"net (float[N,600] x) => (float[N,1] y) {{ {body} }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(600, np.int64), "n"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(7), "i"))
    (y,) = open_session(model).run(None, {"x": np.arange(600, dtype=np.float32)[None]})
    assert y.tolist() == [[7]]


def test_opening_a_proto_leaves_it_as_it_is():
    weight = onnx.numpy_helper.from_array(np.arange(3000, dtype=np.float32), "w")
    model = parsed("net (float[N,3000] x) => (float[N,3000] y) { y = Add(x, w) }")
    model.graph.initializer.append(weight)
    before = model.SerializeToString()
    (y,) = open_session(model).run(None, {"x": np.zeros((1, 3000), np.float32)})
    np.testing.assert_array_equal(y[0], np.arange(3000))
    assert model.SerializeToString() == before


def test_writing_a_large_model_puts_its_weights_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.session._PROTOBUF_LIMIT", 100)
    model = parsed("net (float[N,3000] x) => (float[N,3000] y) { y = Add(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3000, np.float32), "w"))
    path = write(model, tmp_path / "model.onnx")
    assert path.stat().st_size < 2000
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no such file"),
        (b"hello, I am a text file", r"cannot load it .*Protobuf parsing failed"),
        (RELU.SerializeToString()[:-20], r"cannot load it"),
        (parsed("net (float[3] x) => (float[3] y) { y = Foo(x) }").SerializeToString(), r"No Op registered"),
    ],
    ids=["missing", "text", "truncated", "unknown-op"],
)
def test_what_onnxruntime_refuses_is_one_line_with_the_path(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        open_session(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_provider_names_the_known_ones():
    with pytest.raises(ProviderError, match=r"unknown provider 'tpu': choose one of cpu, cuda"):
        open_session(RELU, provider="tpu")


@needs_no_cuda
def test_cuda_without_a_cuda_onnxruntime_says_what_to_install():
    with pytest.raises(ProviderError, match=r"available: cpu\).*pip install onnxruntime-gpu"):
        open_session(RELU, provider="cuda")


def test_a_provider_that_onnxruntime_drops_is_an_error_and_no_silent_fallback(monkeypatch):
    class OnTheCpu:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    everything = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: everything)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession", OnTheCpu)
    with pytest.raises(ProviderError, match=r"could not start CUDAExecutionProvider"):
        open_session(RELU, provider="cuda")


@needs_cuda
def test_a_cuda_session_runs_on_the_gpu():
    session = open_session(RELU, provider="cuda", exact=True)
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    x = np.array([[-1, 2, -3]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[0, 2, 0]])


def test_zero_threads_are_refused():
    with pytest.raises(ProviderError, match="0 threads"):
        open_session(RELU, threads=0)


def test_idle_threads_of_one_session_do_not_spin_beside_the_next():
    options = open_session(RELU, threads=2).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_unoptimized_sessions_compute_every_node():
    model = parsed("net (float[N,3] x) => (float[N,3] y) { a = Identity(x) y = Relu(a) }")
    x = np.array([[-1, 2, -3]], np.float32)
    for optimize in (True, False):
        session = open_session(model, optimize=optimize)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[0, 2, 0]])
        level = str(session.get_session_options().graph_optimization_level)
        assert ("ENABLE_ALL" in level) is optimize


ALL_KINDS = parsed(
    "net (float[N,4] a, float16[N,4] b, double[2] c, int64[N,5] d, uint8[N,30] e, int8[30] f, bool[N,40] g,"
    " int64 h) => (float[N,4] y) { y = Relu(a) }"
)


def test_each_declared_type_and_shape_is_met_and_varied():
    inputs = random_inputs(ALL_KINDS, batch=3, seed=0)
    found = {name: (array.dtype.name, array.shape) for name, array in inputs.items()}
    assert found == {
        "a": ("float32", (3, 4)),
        "b": ("float16", (3, 4)),
        "c": ("float64", (2,)),
        "d": ("int64", (3, 5)),
        "e": ("uint8", (3, 30)),
        "f": ("int8", (30,)),
        "g": ("bool", (3, 40)),
        "h": ("int64", ()),
    }
    assert all(np.unique(array).size > 1 for array in inputs.values() if array.size > 1)
    assert set(np.unique(inputs["d"])) <= {0, 1}
    assert inputs["e"].max() > 127 and inputs["f"].min() < 0


def test_a_seed_fixes_the_inputs_and_another_changes_them():
    first, again, other = (random_inputs(RELU, batch=2, seed=seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_session_and_its_proto_declare_the_same():
    model = parsed(
        "net (float[N,?,4] a, float16[seq,N] b, int64[2] c, float[1] w) => (float[N,?,4] y)"
        " <float[1] w = {1}> { y = Mul(a, w) }"
    )
    assert declared_inputs(open_session(model)) == declared_inputs(model)
    assert [declared.name for declared in declared_inputs(model)] == ["a", "b", "c"]
    assert declared_inputs(model)[0].shape == ("N", "a:1", 4)


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ("float[N,3] a", {"N"}),
        ("float[s0,3] a", {"s0"}),
        ("float[?,3] a", {"a:0"}),
        ("float[seq,batch_size,8] a", {"batch_size"}),
        ("float[batch,seq] a, float[seq] b", {"batch"}),
        ("float[1,seq] a", set()),
        ("float[2,3] a", set()),
    ],
)
def test_the_batch_axis_is_the_one_named_so_or_else_the_first(shapes, axes):
    model = parsed(f"net ({shapes}) => (float y) {{ y = ReduceSum<keepdims=0>(a) }}")
    assert batch_axes(declared_inputs(model)) == axes


def test_only_wholly_static_models_fix_the_batch():
    for shapes, fixed in (("float[2,3] a", 2), ("float[N,3] a", None), ("float a", None)):
        model = parsed(f"net ({shapes}) => (float y) {{ y = ReduceSum<keepdims=0>(a) }}")
        assert fixed_batch(declared_inputs(model)) == fixed, shapes


def test_open_axes_take_the_given_size_and_else_a_usual_one():
    model = parsed("net (float[N,3,h,w] a, float[N,t,?] b) => (float[N,3,h,w] y) { y = Relu(a) }")
    usual = random_inputs(model, batch=1, seed=0)
    assert (usual["a"].shape, usual["b"].shape) == ((1, 3, 224, 224), (1, 32, 32))
    given = random_inputs(model, batch=2, seed=0, dynamic={"h": 8, "w": 9, "b:2": 5})
    assert (given["a"].shape, given["b"].shape) == ((2, 3, 8, 9), (2, 32, 5))


def test_token_inputs_index_the_whole_table_and_nothing_beyond():
    model = parsed(
        "net (int64[N,64] ids, int64[N,64] mask) => (float[N,64,2] y)"
        " { i = Cast<to=7>(ids) y = Gather(table, i) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((50, 2), np.float32), "table"))
    inputs = random_inputs(model, batch=8, seed=0)
    assert inputs["ids"].min() == 0 and inputs["ids"].max() == 49
    assert set(np.unique(inputs["mask"])) == {0, 1}


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("string[2] x", r"input 'x' .*cannot be made up"),
        ("seq(float[2]) x", r"input 'x' .*cannot be made up"),
        ("float[1000000,1000000,1000] x", r"input 'x' of shape .* is too large"),
    ],
)
def test_inputs_that_cannot_be_made_up_are_named(declaration, message):
    model = parsed(f"net ({declaration}, float[1] a) => (float[1] y) {{ y = Relu(a) }}")
    with pytest.raises(ModelError, match=message):
        random_inputs(model, batch=1, seed=0)
    with pytest.raises(ModelError, match=message):
        random_inputs(open_session(model), batch=1, seed=0)


def test_an_input_without_a_rank_is_named():
    model = parsed("net (float[] x) => (float[] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"input 'x' has no declared rank: give it a shape"):
        random_inputs(model, batch=1, seed=0)


def test_reasons_are_one_short_line_without_the_code():
    error = RuntimeError("[ONNXRuntimeError] : 1 : FAIL : it broke\n here" + "x" * 500)
    assert reason(error).startswith("it broke here")
    assert len(reason(error)) == 300
