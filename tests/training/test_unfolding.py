"""BatchNorm put in for training and folded away again, without a change to the function."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from text_nets import net

from onnxprune import to_torch
from onnxprune.demo import built_in, digits
from onnxprune.training.data import Data, from_arrays
from onnxprune.training.settings import Settings
from onnxprune.training.unfolding import NORM, PREFIX, fold, unfold
from onnxprune.training.verb import train
from onnxprune.verify import verify

TWO_LAYERS = "net (float[N,3,8,8] x) => (float[N,4,8,8] y) { h = Conv(x, v, a)  r = Relu(h)  y = Conv(r, w, b) }"


def samples(count: int = 40) -> Data:
    x = np.random.default_rng(0).normal(0.5, 2, (count, 3, 8, 8)).astype(np.float32)
    return from_arrays({"x": x}, [("x", np.float32, (None, 3, 8, 8))])


def two_layers(text: str = TWO_LAYERS) -> onnx.ModelProto:
    return net(text, v=(6, 3, 1, 1), a=(6,), w=(4, 6, 1, 1), b=(4,))


def test_unfolding_changes_nothing() -> None:
    unfolded = unfold(two_layers(), samples())
    assert unfolded is not None
    assert [node.op_type for node in unfolded.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    onnx.checker.check_model(unfolded, full_check=True)
    assert verify(two_layers(), unfolded).equal


def test_statistics_are_those_of_the_samples_and_filters_get_the_usual_length() -> None:
    data = samples()
    unfolded = unfold(two_layers(), data)
    assert unfolded is not None
    values = {t.name: numpy_helper.to_array(t) for t in unfolded.graph.initializer}
    np.testing.assert_allclose(np.linalg.norm(values["v"].reshape(6, -1), axis=1), NORM, rtol=1e-5)
    x = torch.from_numpy(np.concatenate([b["x"] for b in data.batches(64)]))
    made = torch.nn.functional.conv2d(x, torch.from_numpy(values["v"].copy()), torch.from_numpy(values["a"].copy()))
    np.testing.assert_allclose(values[f"{PREFIX}h/mean"], made.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values[f"{PREFIX}h/var"], made.var((0, 2, 3), correction=0), rtol=1e-3)


def test_folding_after_training_keeps_the_trained_function_and_the_graph() -> None:
    unfolded = unfold(two_layers(), samples())
    assert unfolded is not None
    generator = torch.Generator().manual_seed(0)
    module = to_torch.load(unfolded)
    with torch.no_grad():
        for tensor in module.state_dict(keep_vars=True).values():
            tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=generator))
    trained = to_torch.write_back(module, unfolded)
    folded = fold(trained)
    assert verify(trained, folded).equal
    assert not verify(two_layers(), folded).equal
    assert list(folded.graph.node) == list(two_layers().graph.node)
    assert [t.name for t in folded.graph.initializer] == [t.name for t in two_layers().graph.initializer]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TWO_LAYERS.replace("v, a", "v"), id="no bias"),
        pytest.param(TWO_LAYERS.replace("r = Relu(h)", "g = Conv(x, v, a)  r = Add(h, g)"), id="shared weight"),
    ],
)
def test_convolutions_that_could_not_be_folded_again_are_left_alone(text: str) -> None:
    assert unfold(two_layers(text), samples()) is None


def test_a_model_with_batchnorm_needs_no_other() -> None:
    with built_in() as path:
        assert unfold(onnx.load(path), from_digits()) is None


def from_digits() -> Data:
    (x, y), _ = digits()
    return from_arrays({"x": x[:64], "y": y[:64]}, [("x", np.float32, (None, 1, 8, 8))])


@pytest.mark.slow
def test_a_model_with_batchnorm_folded_away_trains_as_well() -> None:
    """It fell to 10 % without unfolding, at the same settings."""
    (x, y), (held_x, held_y) = digits()
    with built_in() as path:
        folded = path.with_name("digits_folded.onnx")
    if not folded.exists():
        pytest.skip("digits_folded.onnx lies in the checkout only")
    settings = Settings(ratio=0.3, by="macs", epochs=30)
    held_out = {"x": held_x, "y": held_y}
    trained = train(folded, {"x": x, "y": y}, settings=settings, validation=held_out)
    assert trained.reached <= 0.3
    assert trained.after["accuracy"] >= 0.97
    assert not any(node.op_type == "BatchNormalization" for node in trained.model.graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_a_whole_network_unfolded_and_folded_again_computes_the_same(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = getattr(models, name)(weights=None)
    network(torch.randn(16, 3, 64, 64))  # statistics that folding has something to do with
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecation
        torch.onnx.export(
            network.eval(), (torch.randn(1, 3, 64, 64),), file, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    folded = onnx.load_from_string(file.getvalue())
    data = from_arrays({"x": np.random.default_rng(0).normal(size=(64, 3, 64, 64)).astype(np.float32)},
                       [("x", np.float32, (None, 3, 64, 64))])  # fmt: skip
    unfolded = unfold(folded, data)
    assert unfolded is not None
    convolutions = sum(node.op_type == "Conv" for node in folded.graph.node)
    assert sum(node.op_type == "BatchNormalization" for node in unfolded.graph.node) == convolutions
    assert verify(folded, unfolded).max_rel_error <= 1e-5
    assert verify(folded, fold(unfolded)).max_rel_error <= 1e-5
