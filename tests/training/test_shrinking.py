"""Training on without the closed channels is training the same function."""

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_net import gated_cnn

from onnxprune import gates, to_torch
from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.errors import TrainingError
from onnxprune.groups import find
from onnxprune.training import Settings, train
from onnxprune.training.data import from_arrays
from onnxprune.training.shrinking import alike, shrink

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "digits.onnx"
FAST = Settings(
    ratio=0.4,
    by="macs",
    epochs=2,
    batch_size=64,
    validation=0.25,
    device="cpu",
    ranking_batches=4,
    report_every=1,
)


@pytest.fixture(scope="module")
def digits():
    """The gated model of the demo, and its costs."""
    loaded = files.load(DIGITS)
    groups = find(loaded)
    costs = CostModel(groups)
    gates.insert(groups, {})
    return files.to_proto(loaded), costs


@pytest.fixture(scope="module")
def samples():
    sklearn = pytest.importorskip("sklearn.datasets")
    found = sklearn.load_digits()
    x = (found.images[:480, None] / 16).astype(np.float32)
    return from_arrays({"x": x, "y": found.target[:480]}, [("x", np.float32, (None, 1, 8, 8))])


def arrays(model):
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


def half_closed(digits, seed):
    """The gated model with about half of its gates closed at random, never all of a group."""
    rng, closed = np.random.default_rng(seed), onnx.ModelProto()
    closed.CopyFrom(digits[0])
    for initializer in closed.graph.initializer:
        if initializer.name.removeprefix("gate/") in digits[1].names:
            w = rng.choice([-1.0, 1.0], initializer.dims[0]).astype(np.float32)
            w[0] = 1
            initializer.CopyFrom(onnx.numpy_helper.from_array(w, initializer.name))
    return closed


@pytest.mark.parametrize("seed", range(3))
def test_the_small_module_computes_the_same_in_training_and_in_evaluation(digits, samples, seed):
    model = half_closed(digits, seed)
    whole = to_torch.load(model)
    shrunk = shrink(model, whole)
    small = to_torch.load(shrunk.model)
    shrunk.carry(whole.state_dict(), small.state_dict())
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in whole.parameters())
    x = torch.from_numpy(samples.batch(range(32))[0])
    for training in (False, True):
        ours, theirs = small.train(training)(x), whole.train(training)(x)
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    for module in (small, whole):
        module(x).square().mean().backward()
    kept = shrunk.of({name: p.grad for name, p in whole.named_parameters() if p.grad is not None})
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter.grad, kept[name], rtol=1e-3, atol=1e-5)


def test_what_is_carried_over_comes_back(digits):
    model = half_closed(digits, 0)
    whole, other = to_torch.load(model), to_torch.load(model)
    shrunk = shrink(model, whole)
    small = to_torch.load(shrunk.model)
    shrunk.carry(whole.state_dict(), small.state_dict())
    for tensor in small.state_dict().values():
        tensor.add_(1)
    shrunk.carry_back(small.state_dict(), other.state_dict())
    for name, place in shrunk.places.items():
        before, after = whole.state_dict()[name].flatten(), other.state_dict()[name].flatten()
        kept = torch.zeros(before.numel(), dtype=torch.bool)
        kept[place.flatten()] = True
        torch.testing.assert_close(after, before + kept)


def run(digits, samples, progress=None, resume=False, **changed):
    return train(*digits, samples, replace(FAST, **changed), progress=progress, resume=resume)


@pytest.fixture(scope="module")
def outcome(digits, samples):
    return run(digits, samples)


def test_with_and_without_closed_channels_training_ends_alike(outcome, digits, samples, caplog):
    with caplog.at_level(logging.INFO):
        again = run(digits, samples)
    assert "training on without the closed channels" in caplog.text
    small, whole = outcome, run(digits, samples, shrink=False)
    assert again.after == small.after
    assert small.kept == whole.kept
    assert small.after["accuracy"] == pytest.approx(whole.after["accuracy"], abs=0.02)
    assert small.after["loss"] == pytest.approx(whole.after["loss"], rel=0.2, abs=0.02)


def test_the_written_model_is_the_evaluated_one(outcome, samples):
    _, held = samples.split(FAST.validation, FAST.seed)
    written = outcome.model.SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": held.batch(range(len(held)))[0]})
    labels = torch.from_numpy(held.labels_of(range(len(held))))
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels).item()
    assert loss == pytest.approx(outcome.after["loss"], rel=1e-4)
    counts = {
        name: int((w > 0).sum()) for name, w in arrays(outcome.model).items() if name[5:] in outcome.kept
    }
    assert counts == {f"gate/{name}": count for name, count in outcome.kept.items()}


@pytest.mark.parametrize("at", [2, 8], ids=["while the gates train", "after the freeze"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, outcome, digits, samples, at):
    def interrupt(progress):
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingError, match="interrupted"):
        run(digits, samples, progress=interrupt, run_dir=str(tmp_path))
    resumed = run(digits, samples, resume=True, run_dir=str(tmp_path))
    for name, array in arrays(outcome.model).items():
        np.testing.assert_array_equal(arrays(resumed.model)[name], array, err_msg=name)


def test_a_model_whose_groups_are_not_its_gates_trains_on_whole(caplog):
    model = gated_cnn()
    assert shrink(model, to_torch.load(model)) is None
    assert "training on with closed channels" in caplog.text


def test_rounding_is_alike_and_a_difference_is_not():
    outputs = (torch.tensor([1.0, -2.0]),)
    assert alike(outputs, (outputs[0] * (1 + 1e-6),))
    assert not alike(outputs, (outputs[0] + 1e-3,))
