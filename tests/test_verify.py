import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_text import RELU, parsed
from small_models import conv_net, images
from text_nets import net

from onnxprune.apart import take_apart
from onnxprune.compare.recording import relative_error
from onnxprune.errors import LawError, ModelError
from onnxprune.verify import Verification, verify


def changed(factor: float) -> onnx.ModelProto:
    """conv_net with the weights of its last layer and their bias times this."""
    proto = conv_net()
    for tensor in proto.graph.initializer[3:]:
        tensor.CopyFrom(
            numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(tensor), tensor.name)
        )
    return proto


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.5, -4.0], 0.125),  # of the largest entry, not of each
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], np.inf),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([1.0, np.inf], [1.0, np.inf], 0.0),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([[1.0], [2.0]], [1.0, 2.0], np.inf),
    ],
)
def test_the_relative_error(a: list[float], b: list[float], error: float):
    assert relative_error(np.asarray(a, np.float32), np.asarray(b, np.float32), "y") == pytest.approx(error)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float16])
def test_other_types_are_compared_as_numbers(dtype: type):
    a, b = np.asarray([0, 1], dtype), np.asarray([1, 1], dtype)
    assert relative_error(a, a, "y") == 0
    assert relative_error(a, b, "y") == 1


def test_text_is_equal_or_not():
    a = np.asarray(["cat", "dog"], object)
    assert relative_error(a, a, "y") == 0
    assert relative_error(a, a[::-1], "y") == np.inf


@pytest.mark.parametrize("values", [[np.nan, 1.0], [np.nan, np.nan], [np.inf, -np.inf]])
def test_outputs_that_prove_nothing_are_an_error(values: list[float]):
    same = np.asarray(values, np.float32)
    with pytest.raises(LawError, match="output 'y' holds NaN, or no finite number, and proves nothing"):
        relative_error(same, same, "y")


def test_a_model_equals_itself():
    found = verify(conv_net(), conv_net())
    assert found.equal and found.max_rel_error == 0
    assert found.inputs == 5  # two batches, of 2 and 3


@pytest.mark.parametrize(("factor", "equal"), [(1.000001, True), (1.001, False)])
def test_the_tolerance_of_float32(factor: float, equal: bool):
    found = verify(conv_net(), changed(factor))
    assert found.equal is equal
    assert found.max_rel_error == pytest.approx(factor - 1, rel=0.2)
    assert found.tolerance == 1e-5


def test_the_callers_tolerance_and_inputs():
    feeds = [{"image": images(4)}, {"image": images(1, seed=1)}]
    found = verify(conv_net(), changed(1.001), feeds=feeds, tolerance=0.01)
    assert (found.equal, found.tolerance, found.inputs) == (True, 0.01, 5)


def test_a_difference_that_shows_at_one_batch_size_only_is_found():
    """The second model flattens as if the batch were 2."""
    right = net("net (float[N,4,2] x) => (float[N,8] y) <int64[2] to = {-1, 8}> { y = Reshape(x, to) }")
    wrong = net("net (float[N,4,2] x) => (float[N,8] y) <int64[2] to = {2, 8}> { y = Reshape(x, to) }")
    with pytest.raises(ModelError, match="does not run"):
        verify(right, wrong)


@pytest.mark.parametrize(
    "other",
    [
        "net (float[N,3] z) => (float[N,3] y) { y = Relu(z) }",
        "net (float[N,3] x) => (float[N,3] z) { z = Relu(x) }",
    ],
)
def test_models_of_other_inputs_or_outputs_are_not_compared(other: str):
    with pytest.raises(
        ModelError, match=r"have other (inputs|outputs).*compare a model with its own slim one"
    ):
        verify(RELU, parsed(other))


def test_a_seed_repeats_the_inputs():
    first, second, other = (verify(conv_net(), changed(1.001), seed=seed).max_rel_error for seed in (1, 1, 2))
    assert first == second != other


def test_the_document_has_the_verdict():
    assert Verification(1e-4, 1e-5, 7).to_json() == {
        "max_rel_error": 1e-4,
        "tolerance": 1e-5,
        "inputs": 7,
        "equal": False,
    }


@pytest.mark.parametrize("large", [64, 1 << 30], ids=["apart", "whole"])
def test_models_with_their_weights_apart_are_compared_as_protos_are(large, monkeypatch):
    monkeypatch.setattr("onnxprune.apart.LARGE", large)
    gated, other = conv_net(), changed(1.5)
    assert verify(take_apart(gated), take_apart(gated)).max_rel_error == 0
    assert verify(take_apart(gated), take_apart(other)) == verify(gated, other)
    assert not verify(take_apart(gated), take_apart(other)).equal
