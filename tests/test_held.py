import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_text import parsed
from text_nets import net

from onnxprune import apart, model
from onnxprune.apart import take_apart
from onnxprune.prepare import prepare


@pytest.fixture(autouse=True)
def all_weights_are_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart, "LARGE", 0)


GEMM = net("net (float[N,3] x) => (float[N,2] y) { y = Gemm(x, w) }", w=(3, 2))


def test_a_weight_is_one_array_from_the_file_to_the_export():
    parts = take_apart(GEMM)
    loaded = model.load(parts)
    again = model.load(model.export(loaded))
    (weight,) = (t for t in again.graph.tensors().values() if isinstance(t, gs.Constant))
    assert np.shares_memory(weight.values, parts.weights["w"])
    assert model.to_proto(again) == model.to_proto(model.load(GEMM))


def test_a_copied_model_has_weights_of_its_own():
    loaded = model.load(GEMM)
    copy = model.load(loaded)
    copy.graph.nodes[0].inputs[1].values[:] = 0
    assert model.to_proto(loaded) == model.to_proto(model.load(GEMM))


def test_a_sliced_weight_is_exported_as_it_is_now():
    loaded = model.load(GEMM)
    weight = loaded.graph.nodes[0].inputs[1]
    model.export(loaded)
    weight.values = np.asfortranarray(weight.values[1:])
    (found,) = model.to_proto(loaded).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(found), weight.values)


BRANCHES = """net (float[3] x, bool c) => (float[3] y) <float[3] w = {1, 2, 3}, float[3] v = {4, 5, 6}> {
    a = Add(x, v)
    y = If(c) <then_branch = yes () => (float[3] t) { t = Mul(a, w) },
               else_branch = no () => (float[3] e) { e = Sub(a, w) }>
}"""


def test_a_weight_that_only_a_body_reads_is_exported_with_its_values():
    proto = parsed(BRANCHES)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    parts = model.export(model.load(proto))
    assert "v" in parts.weights
    whole = parts.whole()
    onnx.checker.check_model(whole)
    (y,) = ReferenceEvaluator(whole).run(None, {"x": np.ones(3, np.float32), "c": np.asarray(True)})
    assert y.tolist() == [5, 12, 21]


def test_weights_in_constant_nodes_stand_apart_as_well():
    text = "net (float[N,3] x) => (float[N,3] y) { w = Constant<value = float[3] {1, 2, 3}>()  y = Mul(x, w) }"
    loaded = model.load(parsed(text))
    prepare(loaded)
    assert model.export(loaded).weights["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT4E2M1"])
def test_entries_smaller_than_a_byte_are_exported_as_they_came(kind: str):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind))
    proto = net("net () => (float[3] y) { d = Cast<to = 1>(w)  y = Identity(d) }", opset=24)
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(3).astype(dtype), "w"))
    loaded = model.load(proto)
    weight = loaded.graph.nodes[0].inputs[0]
    weight.values = weight.values[1:]
    (found,) = model.to_proto(loaded).graph.initializer
    assert numpy_helper.to_array(found).astype(np.float32).tolist() == [1, 2]
    assert len(found.raw_data) == 1
