"""Nets with spatial outputs are pruned while they learn: a detector by a task of the user's, and a segmentation net."""

import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from squares import detector, segmenter, squares

import onnxprune
from onnxprune.errors import TrainingError
from onnxprune.training import Settings
from onnxprune.training.features import Features

GUIDE = Path(__file__).parents[2] / "docs" / "tasks.md"
FAST = Settings(
    ratio=0.5, multiple_of=1, by="macs", epochs=10, batch_size=32, lr=0.05, ranking_batches=4, validation=0.25,
    device="cpu",
)  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The guide's example as `detector.py` in the current folder."""
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (code,) = (example for example in examples if "class Detector" in example)
    (tmp_path / "detector.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "detector:Detector"
    sys.modules.pop("detector", None)


def test_a_detector_learns_its_boxes_at_half_the_macs(written):
    images, boxes, _ = squares(400)
    trained = onnxprune.train(detector(), {"x": images, "y": boxes}, settings=FAST, epochs=14, task=written)
    assert list(trained.after) == ["f1", "recall", "precision", "loss"]
    assert 0.45 < trained.reached <= 0.5
    assert trained.before["f1"] < 0.05
    assert trained.after["f1"] > 0.4
    assert trained.after["loss"] < 0.5 * trained.before["loss"]


def test_a_segmentation_net_learns_its_masks_at_half_the_macs_and_its_metric_is_that_of_numpy():
    (images, _, masks), (held_images, _, held_masks) = squares(300), squares(70, seed=1)
    held = {"x": held_images, "y": held_masks}
    trained = onnxprune.train(
        segmenter(), {"x": images, "y": masks}, settings=FAST, validation=held, task="segmentation"
    )
    assert list(trained.after) == ["mean_iou", "pixel_accuracy", "loss"]
    assert 0.45 < trained.reached <= 0.5
    assert trained.after["mean_iou"] > max(0.6, trained.before["mean_iou"] + 0.2)
    session = onnxruntime.InferenceSession(
        trained.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(None, {"x": held_images})
    full = torch.nn.functional.interpolate(torch.from_numpy(scores), (16, 16), mode="bilinear")
    predicted, counts = full.numpy().argmax(1), held_masks != 255
    both = [((predicted == c) & (held_masks == c) & counts).sum() for c in range(3)]
    either = [(((predicted == c) | (held_masks == c)) & counts).sum() for c in range(3)]
    found = np.mean([i / u for i, u in zip(both, either, strict=True)])
    assert trained.after["mean_iou"] == pytest.approx(found, abs=2e-3)
    assert trained.after["pixel_accuracy"] == pytest.approx(
        (predicted == held_masks)[counts].mean(), abs=2e-3
    )


@pytest.mark.parametrize("shrink", [False, True])
def test_values_inside_are_shared_before_and_after_the_closed_channels_go(shrink, monkeypatch):
    images, _, masks = squares(120)
    widths, plain = set(), Features.loss

    def noted(self, values, wanted):
        widths.add(tuple(value.shape[1] for value in values))
        assert all(v.shape[2:] == w.shape[2:] for v, w in zip(values, wanted, strict=True))
        return plain(self, values, wanted)

    monkeypatch.setattr(Features, "loss", noted)
    onnxprune.train(
        segmenter(), {"x": images, "y": masks}, settings=FAST, epochs=3, features=("rb", "j"), shrink=shrink
    )
    assert (16, 40) in widths
    assert len(widths) == 1 + shrink


def test_a_feature_that_the_model_does_not_have_is_refused():
    images, _, masks = squares(40)
    with pytest.raises(TrainingError, match="features 'layer1' fit no value of the model: it has a, ra, b"):
        onnxprune.train(segmenter(), {"x": images, "y": masks}, settings=FAST, features=("layer1",))
