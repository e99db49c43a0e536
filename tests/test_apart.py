import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import conv_net
from strategies import random_model

from onnxprune import apart
from onnxprune.apart import take_apart


@pytest.fixture(autouse=True)
def all_weights_are_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart, "LARGE", 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_model_taken_apart_is_the_same_model(seed: int):
    proto = random_model(seed)
    assert take_apart(proto).whole() == proto


@pytest.mark.parametrize("seed", range(8))
def test_the_pieces_are_what_protobuf_writes(seed: int):
    proto = random_model(seed)
    proto.graph.doc_string, proto.doc_string = "after the weights", "before the graph"
    for tensor in proto.graph.initializer:
        tensor.doc_string = "after its values"
    parts = take_apart(proto)
    assert b"".join(parts.pieces()) == proto.SerializeToString()
    assert parts.size == proto.ByteSize()


@pytest.mark.parametrize("dtype", [*apart.PLAIN, TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.BOOL])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_weights_of_every_type_stay_as_they_are(dtype: int, raw: bool):
    proto = conv_net()
    tensor = helper.make_tensor("w", dtype, [3], [1, 0, 3])
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    proto.graph.initializer.append(tensor)
    parts = take_apart(proto)
    assert ("w" in parts.weights) == (raw and dtype in apart.PLAIN)
    assert parts.whole() == proto


def test_the_light_model_holds_no_weights():
    proto = conv_net(width=64)
    assert take_apart(proto).light.ByteSize() < proto.ByteSize() / 20


@pytest.mark.parametrize("damage", ["short", "negative", "twice", "nameless"])
def test_damaged_weights_stay_where_the_checks_see_them(damage: str):
    proto = conv_net()
    tensor = proto.graph.initializer[2]
    if damage == "short":
        tensor.raw_data = tensor.raw_data[:-1]
    elif damage == "negative":
        tensor.dims[0] *= -1
        tensor.dims[1] *= -1
    else:
        tensor.name = "" if damage == "nameless" else proto.graph.initializer[0].name
    parts = take_apart(proto)
    assert parts.light.graph.initializer[2] == tensor
    assert parts.whole() == proto


@pytest.mark.parametrize("large", [0, 1 << 20])
def test_values_are_put_wherever_the_old_ones_stand(large: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apart, "LARGE", large)
    proto = conv_net()
    parts = take_apart(proto)
    parts.put({"head.bias": np.arange(3)})
    whole = parts.whole()
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    assert found["head.bias"].dtype == np.float32
    assert found["head.bias"].tolist() == [0, 1, 2]
    onnx.checker.check_model(whole)
