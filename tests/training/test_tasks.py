"""Losses and metrics, and which of them a run is for."""

import pytest
import torch
import torch.nn.functional as F

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.task_choice import choose, classes_of
from onnxprune.training.tasks import Classification, Regression


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def batch(labels=None, n=6):
    return Batch((torch.zeros(n, 3),), labels)


def picked(name, outputs, labels=None, distill=None):
    return choose(name, batch(labels), outputs, distill=distill, temperature=2.0)


def metrics(task, outputs, labels=None, teacher=None):
    return task.metrics(task.sums(outputs, batch(labels), teacher))


LOGITS = torch.tensor([[2.0, -1, 0.5], [0, 3, 1], [-2, 0, 4], [1, 0, 0], [5, 1, 2], [0, 1, 0]])
CLASSES = torch.tensor([0, 1, 2, 0, 0, 2])


def test_classification_is_cross_entropy_and_accuracy():
    task = Classification()
    wanted = F.cross_entropy(LOGITS, CLASSES)
    torch.testing.assert_close(task.loss((LOGITS,), batch(CLASSES)), wanted)
    assert metrics(task, (LOGITS,), CLASSES) == pytest.approx({"accuracy": 5 / 6, "loss": wanted.item()})


def test_soft_labels_are_met_by_cross_entropy_and_counted_by_the_likeliest():
    task, soft = Classification(), 0.8 * F.one_hot(CLASSES, 3) + 0.2 * F.one_hot((CLASSES + 1) % 3, 3)
    torch.testing.assert_close(task.loss((LOGITS,), batch(soft)), F.cross_entropy(LOGITS, soft))
    assert metrics(task, (LOGITS,), soft)["accuracy"] == pytest.approx(5 / 6)
    assert isinstance(picked("auto", (LOGITS,), soft, distill=0.0), Classification)


@pytest.mark.parametrize(("classes", "names"), [(19, []), (20, ["top5_accuracy"])])
def test_many_classes_are_also_counted_among_the_first_five(classes, names):
    scores = torch.arange(classes).float().expand(6, classes)
    found = metrics(Classification(), (scores,), classes - 1 - torch.tensor([0, 1, 4, 5, 6, -5 + classes]))
    assert list(found) == ["accuracy", *names, "loss"]
    assert found.get("top5_accuracy", 0.5) == pytest.approx(0.5)
    assert found["accuracy"] == pytest.approx(1 / 6)


def test_a_batch_without_a_label_that_counts_trains_nothing():
    scores, task = LOGITS.clone().requires_grad_(), Classification()
    loss = task.loss((scores,), batch(torch.full((6,), -1)))
    loss.backward()
    assert loss == 0
    assert not scores.grad.any()
    with pytest.raises(TrainingError, match="no label of the held-out samples counts"):
        metrics(task, (scores,), torch.full((6,), -1))


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_single_score_answers_a_yes_or_no_question(probabilities):
    answers = torch.tensor([0, 1, 1, 0, 1, 0])
    scores = LOGITS[:, :1].sigmoid() if probabilities else LOGITS[:, :1]
    task = picked("auto", (scores,), answers, distill=0.0)
    assert task == Classification(probabilities)
    wanted = F.binary_cross_entropy_with_logits(LOGITS[:, 0], answers.float())
    torch.testing.assert_close(task.loss((scores,), batch(answers)), wanted)


def test_a_model_that_ends_in_softmax_is_trained_on_its_logs():
    task = picked("classification", (LOGITS.softmax(1),), CLASSES)
    torch.testing.assert_close(
        task.loss((LOGITS.softmax(1),), batch(CLASSES), None), F.cross_entropy(LOGITS, CLASSES)
    )


def test_negative_labels_are_left_out():
    labels = torch.tensor([0, 1, -1, -100, -1, -1])
    task, few = Classification(), batch(labels)
    torch.testing.assert_close(task.loss((LOGITS,), few), F.cross_entropy(LOGITS[:2], labels[:2]))
    assert metrics(task, (LOGITS,), labels)["accuracy"] == 1


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 7, 5), (4, 5, 6, 7)])
def test_classes_may_stand_second_or_last(shape):
    scores = torch.randn(shape)
    axis = 1 if shape == (4, 5, 6, 7) else shape.index(5)
    labels = torch.randint(0, 5, [n for i, n in enumerate(shape) if i != axis])
    wanted = F.cross_entropy(scores.movedim(axis, 1), labels)
    torch.testing.assert_close(Classification().loss((scores,), batch(labels)), wanted)


def test_labels_as_a_column_are_accepted():
    loss = Classification().loss((LOGITS,), batch(CLASSES[:, None]))
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, CLASSES))


def test_regression_is_relative_to_the_targets_variance():
    targets = torch.tensor([10.0, 20, 30, 40, 50, 60])
    task = picked("auto", (targets[:, None] + 1,), targets, distill=0.0)
    assert isinstance(task, Regression)
    found = metrics(task, (targets[:, None] + 1,), targets)
    assert found == pytest.approx({"relative_error": 1 / targets.var(correction=0).item(), "mse": 1})


def test_the_relative_error_of_regression_is_the_labels_where_it_is_mixed_with_distillation():
    targets = torch.tensor([10.0, 20, 30, 40, 50, 60])
    task = picked("auto", (targets[:, None] + 1,), targets)
    found = metrics(task, (targets[:, None],), targets, (targets[:, None] + 1,))
    assert found["relative_error"] == 0 < found["distillation"]


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (LOGITS, "logits"),
        (LOGITS.softmax(1), "probabilities"),
        (LOGITS.sigmoid(), "values"),
        (torch.randn(6, 1), "values"),
        (torch.randn(6, 3, 4, 4), "values"),
        (torch.randn(6), "values"),
        (torch.ones(6, 3), "none"),
    ],
)
def test_how_an_output_is_matched_is_told_from_the_original(outputs, kind):
    assert Head.of(outputs).kind == kind


@pytest.mark.parametrize(
    ("shape", "axis", "labels"),
    [((6, 3, 4, 5), 1, (6, 4, 5)), ((6, 4, 5, 3), -1, (6, 4, 5)), ((6, 7, 3), -1, (6, 7))],
)
def test_class_scores_are_matched_at_every_position(shape, axis, labels):
    ours, theirs, classes = torch.randn(shape), torch.randn(shape), torch.randint(0, 3, labels)
    told = [
        picked("auto", (theirs,), classes).distillation,
        picked("distillation", (theirs,), classes),
    ]
    p, q = ((o / 2).softmax(axis) for o in (theirs, ours))
    wanted = 4 * (p * (p / q).log()).sum(axis).mean()
    for task in told:
        assert task.heads == (Head("logits", task.heads[0].variance, axis),)
        torch.testing.assert_close(task.loss((ours,), batch(), (theirs,)), wanted)
        assert metrics(task, (ours,), None, (theirs,))["agreement"] == pytest.approx(
            (ours.argmax(axis) == theirs.argmax(axis)).double().mean().item()
        )


@pytest.mark.parametrize("axis", [1, -1])
def test_probabilities_at_every_position_are_told_without_labels(axis):
    assert Head.of(torch.randn(6, 3, 4, 5).softmax(axis)).axis == axis


def test_scores_at_positions_are_values_where_no_labels_tell_otherwise():
    assert picked("distillation", (torch.randn(6, 3, 4, 4),)).heads[0].kind == "values"
    assert picked("distillation", (torch.randn(6, 3, 4, 4),), torch.zeros(6).long()).heads[0].kind == "values"


def test_distillation_of_scores_is_divergence_at_its_temperature():
    ours = torch.randn(6, 3)
    loss = Distillation((Head("logits"),), 2.0).loss((ours,), batch(), (LOGITS,))
    p, q = (LOGITS / 2).softmax(1), (ours / 2).softmax(1)
    torch.testing.assert_close(loss, 4 * (p * (p / q).log()).sum(1).mean())


def test_distillation_of_values_is_relative_to_the_teachers_variance():
    wanted = torch.randn(6, 2, 4)
    task = Distillation((Head.of(wanted),))
    constant = (torch.full_like(wanted, wanted.mean().item()),)
    torch.testing.assert_close(task.loss(constant, batch(), (wanted,)), torch.ones(()))
    assert metrics(task, (wanted,), None, (wanted,))["relative_error"] == 0


@pytest.mark.parametrize(
    "outputs", [LOGITS, LOGITS.softmax(1), torch.randn(6, 2, 4), torch.randn(6, 2, 4).softmax(1)]
)
def test_at_the_original_the_loss_is_flat_but_the_probe_is_not(outputs):
    task = Distillation((Head.of(outputs),))
    x = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(task.loss((x,), batch(), (outputs,)), x)
    (probe,) = torch.autograd.grad(task.probe((x,), batch()), x)
    assert slope.abs().max() < 1e-5
    assert probe.abs().max() > 1e-2


def test_the_probe_of_values_measures_the_curvature_of_the_loss():
    outputs = torch.randn(50, 4)
    task = Distillation((Head("values", 1.7),))
    x = outputs.clone().requires_grad_()
    squares = sum(torch.autograd.grad(task.probe((x,), batch()), x)[0] ** 2 for _ in range(400)) / 400
    expected = torch.full_like(
        x, 1 / (x.numel() * 1.7)
    )  # half the second derivative of mean((x - t)^2) / variance
    torch.testing.assert_close(squares.mean(), expected.mean(), rtol=0.05, atol=0)


def test_the_probe_of_scores_measures_the_curvature_of_the_loss_at_every_position():
    logits = torch.randn(5, 3, 4)
    task, x = Distillation((Head("logits"),), 1.0), logits.clone().requires_grad_()
    draws = 3000
    squares = sum(torch.autograd.grad(task.probe((x,), batch()), x)[0] ** 2 for _ in range(draws)) / draws
    p = logits.softmax(1)
    torch.testing.assert_close(
        squares, p * (1 - p) / 20, rtol=0.25, atol=1e-3
    )  # Fisher of 20 positions' mean


def test_several_outputs_are_matched_together_and_constant_ones_left_out():
    teacher = (LOGITS, torch.randn(6, 2, 2), torch.ones(6, 1))
    task = picked("distillation", teacher)
    found = metrics(task, teacher, None, teacher)
    assert list(found) == ["agreement", "relative_error", "distillation"]
    assert found["agreement"] == 1


def test_auto_mixes_labels_with_distillation():
    task = picked("auto", (LOGITS,), CLASSES)
    assert isinstance(task, Mixed)
    ours = (torch.randn(6, 3),)
    wanted = 0.1 * F.cross_entropy(ours[0], CLASSES) + 0.9 * task.distillation.loss(ours, batch(), (LOGITS,))
    torch.testing.assert_close(task.loss(ours, batch(CLASSES), (LOGITS,)), wanted)
    assert next(iter(metrics(task, ours, CLASSES, (LOGITS,)))) == "accuracy"


def test_a_task_asked_for_by_name_is_pure():
    assert isinstance(picked("classification", (LOGITS,), CLASSES), Classification)
    assert isinstance(picked("distillation", (LOGITS,), CLASSES), Distillation)
    assert isinstance(picked("classification", (LOGITS,), CLASSES, distill=0.5), Mixed)


def test_auto_without_labels_is_distillation():
    assert isinstance(picked("auto", (LOGITS,)), Distillation)


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "says"),
    [
        ("classification", (LOGITS,), None, "needs labels"),
        ("classification", (LOGITS,), CLASSES.float(), "use the task regression"),
        ("classification", (LOGITS,), CLASSES + 1, "labels 'y' go up to 3, but the model has 3 classes"),
        ("classification", (torch.randn(6, 3, 4),), CLASSES, "do not fit the model's output"),
        ("regression", (torch.randn(6, 2),), CLASSES.float(), "do not fit the model's output"),
        ("auto", (), CLASSES, "no floating-point output"),
        ("distillation", (torch.ones(6, 3),), None, "constant on the data"),
        ("detection", (LOGITS,), CLASSES, "task 'detection' is unknown"),
        ("nomodule:f", (LOGITS,), CLASSES, "importable module:object"),
        ("math:nothing", (LOGITS,), CLASSES, "math has no 'nothing', but acos"),
        ("math:pi", (LOGITS,), CLASSES, "not a function"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_one_line(name, outputs, labels, says):
    with pytest.raises(TrainingError, match=says) as caught:
        picked(name, outputs, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "labels", "distill", "classes"),
    [
        (LOGITS, CLASSES, 0.0, 3),
        (LOGITS, CLASSES, 0.5, 3),
        (LOGITS[:, :1], CLASSES.clamp_max(1), 0.0, None),
        (torch.randn(6, 3, 4), torch.zeros(6, 4).long(), 0.0, None),
        (LOGITS, LOGITS, 0.0, None),
    ],
)
def test_the_classes_of_one_prediction_per_sample_are_known(scores, labels, distill, classes):
    assert classes_of(picked("auto", (scores,), labels, distill)) == classes
