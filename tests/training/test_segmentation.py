"""One class per pixel: which pixels count, how scores meet labels, and the metrics as numpy counts them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Mixed
from onnxprune.training.segmentation import Segmentation
from onnxprune.training.task_choice import choose


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def batch(labels):
    return Batch((torch.zeros(len(labels), 3),), labels)


def picked(name, scores, labels, distill=0.0):
    return choose(name, batch(labels), (scores,), distill=distill, temperature=2.0)


def metrics(task, scores, labels):
    return task.metrics(task.sums((scores,), batch(labels), None))


def mean_iou(predicted, labels, classes):
    """Plain numpy: intersections over unions, of the classes that occur."""
    predicted, labels = predicted[labels >= 0], labels[labels >= 0]
    both = [((predicted == c) & (labels == c)).sum() for c in range(classes)]
    either = [((predicted == c) | (labels == c)).sum() for c in range(classes)]
    return np.mean([i / u for i, u in zip(both, either, strict=True) if u])


SCORES, MASKS = torch.randn(4, 6, 8, 9), torch.randint(0, 4, (4, 8, 9))  # classes 4 and 5 are only predicted


def test_the_loss_is_cross_entropy_per_pixel():
    torch.testing.assert_close(Segmentation().loss((SCORES,), batch(MASKS)), F.cross_entropy(SCORES, MASKS))


def test_metrics_are_those_of_numpy():
    found, predicted = metrics(Segmentation(), SCORES, MASKS), SCORES.argmax(1).numpy()
    assert list(found) == ["mean_iou", "pixel_accuracy", "loss"]
    assert found["mean_iou"] == pytest.approx(mean_iou(predicted, MASKS.numpy(), 6))
    assert found["pixel_accuracy"] == pytest.approx((predicted == MASKS.numpy()).mean())


def test_a_class_that_nowhere_occurs_does_not_count():
    scores = F.one_hot(MASKS, 6).movedim(-1, 1).float()
    assert metrics(Segmentation(), scores, MASKS)["mean_iou"] == 1


@pytest.mark.parametrize("ignored", [-1, -100, 255])
def test_ignored_pixels_count_nowhere(ignored):
    masks = MASKS.clone()
    masks[:, 3:] = ignored
    task = Segmentation()
    torch.testing.assert_close(
        task.loss((SCORES,), batch(masks)), F.cross_entropy(SCORES[:, :, :3], MASKS[:, :3])
    )
    few = metrics(Segmentation(), SCORES[:, :, :3], MASKS[:, :3])
    assert metrics(task, SCORES, masks) == pytest.approx(few)


@pytest.mark.parametrize(("classes", "counts"), [(255, False), (256, True)])
def test_label_255_counts_where_it_can_be_a_class(classes, counts):
    scores, masks = torch.randn(1, classes, 2, 2, requires_grad=True), torch.full((1, 2, 2), 255)
    assert bool(Segmentation().loss((scores,), batch(masks)) > 0) == counts


def test_classes_may_stand_last():
    last, task = SCORES.movedim(1, -1), picked("auto", SCORES.movedim(1, -1), MASKS)
    assert task == Segmentation(-1)
    torch.testing.assert_close(task.loss((last,), batch(MASKS)), F.cross_entropy(SCORES, MASKS))


@pytest.mark.parametrize("last", [False, True])
def test_coarse_scores_are_resized_to_the_labels(last):
    scores, masks = torch.randn(2, 5, 4, 7), torch.randint(0, 5, (2, 16, 28))
    task = picked("segmentation", scores.movedim(1, -1) if last else scores, masks)
    assert task.axis == (-1 if last else 1)
    full = F.interpolate(scores, (16, 28), mode="bilinear", align_corners=False)
    loss = task.loss((scores.movedim(1, -1) if last else scores,), batch(masks))
    torch.testing.assert_close(loss, F.cross_entropy(full, masks))


def test_volumes_have_voxels():
    scores, masks = torch.randn(2, 3, 2, 3, 4), torch.randint(0, 3, (2, 4, 6, 8))
    full = F.interpolate(scores, (4, 6, 8), mode="trilinear", align_corners=False)
    task = picked("auto", scores, masks)
    torch.testing.assert_close(task.loss((scores,), batch(masks)), F.cross_entropy(full, masks))


@pytest.mark.parametrize("axis", [1, -1])
def test_masks_may_have_an_axis_of_one_channel(axis):
    task = picked("auto", SCORES, MASKS.unsqueeze(axis))
    loss = task.loss((SCORES,), batch(MASKS.unsqueeze(axis)))
    torch.testing.assert_close(loss, F.cross_entropy(SCORES, MASKS))


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_single_score_tells_foreground_from_background(probabilities):
    logits, masks = torch.randn(4, 1, 8, 9), torch.randint(0, 2, (4, 8, 9))
    scores = logits.sigmoid() if probabilities else logits
    task = picked("auto", scores, masks)
    assert task == Segmentation(1, probabilities)
    wanted = F.binary_cross_entropy_with_logits(logits[:, 0], masks.float())
    torch.testing.assert_close(task.loss((scores,), batch(masks)), wanted)
    found = mean_iou((logits[:, 0] > 0).numpy(), masks.numpy(), 2)
    assert metrics(task, scores, masks)["mean_iou"] == pytest.approx(found)


def test_a_model_that_ends_in_softmax_is_trained_on_its_logs():
    task = picked("auto", SCORES.softmax(1), MASKS)
    torch.testing.assert_close(task.loss((SCORES.softmax(1),), batch(MASKS)), F.cross_entropy(SCORES, MASKS))


def test_auto_mixes_it_with_distillation_at_every_pixel():
    task = picked("auto", SCORES, MASKS, distill=None)
    assert isinstance(task, Mixed)
    assert task.distillation.heads[0].kind == "logits"


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        (SCORES, MASKS.float(), "labels 'y' are floats, not class numbers"),
        (SCORES, MASKS + 3, "labels 'y' go up to 6, but the model has 6 classes"),
        (SCORES, torch.zeros(4).long(), "segmentation needs one class number per pixel"),
        (torch.randn(4, 6), torch.zeros(4).long(), "segmentation needs one class number per pixel"),
        (SCORES, None, "needs labels"),
    ],
)
def test_what_is_no_segmentation_is_refused_in_one_line(scores, labels, says):
    known = Batch((torch.zeros(4, 3),), labels)
    with pytest.raises(TrainingError, match=says) as caught:
        choose("segmentation", known, (scores,), distill=0.0, temperature=2.0)
    assert "\n" not in str(caught.value)
