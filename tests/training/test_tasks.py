"""Losses and metrics, and which of them a run is for."""

import sys

import pytest
import torch
import torch.nn.functional as F

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.task_choice import choose
from onnxprune.training.tasks import Classification, Own, Regression


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def batch(labels=None, n=6):
    return Batch((torch.zeros(n, 3),), labels)


def picked(name, outputs, labels=None, distill=None):
    return choose(name, batch(labels), outputs, distill=distill, temperature=2.0)


LOGITS = torch.tensor([[2.0, -1, 0.5], [0, 3, 1], [-2, 0, 4], [1, 0, 0], [5, 1, 2], [0, 1, 0]])
CLASSES = torch.tensor([0, 1, 2, 0, 0, 2])


def test_classification_is_cross_entropy_and_accuracy():
    task = Classification()
    assert torch.equal(task.loss((LOGITS,), batch(CLASSES)), F.cross_entropy(LOGITS, CLASSES))
    assert task.metrics((LOGITS,), batch(CLASSES))["accuracy"].item() == pytest.approx(5 / 6)


def test_a_model_that_ends_in_softmax_is_trained_on_its_logs():
    task = picked("classification", (LOGITS.softmax(1),), CLASSES)
    torch.testing.assert_close(
        task.loss((LOGITS.softmax(1),), batch(CLASSES), None), F.cross_entropy(LOGITS, CLASSES)
    )


def test_negative_labels_are_left_out():
    labels = torch.tensor([0, 1, -1, -100, -1, -1])
    task, few = Classification(), batch(labels)
    torch.testing.assert_close(task.loss((LOGITS,), few), F.cross_entropy(LOGITS[:2], labels[:2]))
    assert task.metrics((LOGITS,), few)["accuracy"] == 1


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 7, 5), (4, 5, 6, 7)])
def test_classes_may_stand_second_or_last(shape):
    scores = torch.randn(shape)
    axis = 1 if shape == (4, 5, 6, 7) else shape.index(5)
    labels = torch.randint(0, 5, [n for i, n in enumerate(shape) if i != axis])
    wanted = F.cross_entropy(scores.movedim(axis, 1), labels)
    torch.testing.assert_close(Classification().loss((scores,), batch(labels)), wanted)


def test_labels_as_a_column_are_accepted():
    assert torch.equal(
        Classification().loss((LOGITS,), batch(CLASSES[:, None])), F.cross_entropy(LOGITS, CLASSES)
    )


def test_regression_is_relative_to_the_targets_variance():
    targets = torch.tensor([10.0, 20, 30, 40, 50, 60])
    task = picked("auto", (targets[:, None] + 1,), targets, distill=0.0)
    assert isinstance(task, Regression)
    metrics = task.metrics((targets[:, None] + 1,), batch(targets))
    assert metrics["mse"].item() == pytest.approx(1)
    assert metrics["relative_error"].item() == pytest.approx(1 / targets.var(correction=0).item())


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (LOGITS, "logits"),
        (LOGITS.softmax(1), "probabilities"),
        (LOGITS.sigmoid(), "values"),
        (torch.randn(6, 1), "values"),
        (torch.randn(6, 3, 4, 4), "values"),
        (torch.ones(6, 3), "none"),
    ],
)
def test_how_an_output_is_matched_is_told_from_the_original(outputs, kind):
    assert Head.of(outputs).kind == kind


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
    assert task.metrics((wanted,), batch(), (wanted,))["relative_error"] == 0


@pytest.mark.parametrize("outputs", [LOGITS, LOGITS.softmax(1), torch.randn(6, 2, 4)])
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


def test_several_outputs_are_matched_together_and_constant_ones_left_out():
    teacher = (LOGITS, torch.randn(6, 2, 2), torch.ones(6, 1))
    task = picked("distillation", teacher)
    metrics = task.metrics(teacher, batch(), teacher)
    assert list(metrics) == ["agreement", "relative_error", "distillation"]
    assert metrics["agreement"] == 1


def test_auto_mixes_labels_with_distillation():
    task = picked("auto", (LOGITS,), CLASSES)
    assert isinstance(task, Mixed)
    ours = (torch.randn(6, 3),)
    wanted = 0.1 * F.cross_entropy(ours[0], CLASSES) + 0.9 * task.distillation.loss(ours, batch(), (LOGITS,))
    torch.testing.assert_close(task.loss(ours, batch(CLASSES), (LOGITS,)), wanted)
    assert next(iter(task.metrics(ours, batch(CLASSES), (LOGITS,)))) == "accuracy"


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
        ("nomodule:f", (LOGITS,), CLASSES, "importable module:function"),
        ("math:nothing", (LOGITS,), CLASSES, "importable module:function"),
        ("math:pi", (LOGITS,), CLASSES, "not a function"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_one_line(name, outputs, labels, says):
    with pytest.raises(TrainingError, match=says) as caught:
        picked(name, outputs, labels)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(code):
        (tmp_path / "mytask.py").write_text(f"import torch\n{code}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mytask", raising=False)
        return Own.named("mytask:loss")

    return write


def test_a_function_of_ones_own_gets_what_it_asks_for(own):
    task = own("def loss(outputs, labels):\n    return outputs[0].square().sum(), {'mine': labels.sum()}")
    assert not task.taught
    assert task.loss((LOGITS,), batch(CLASSES), None) == LOGITS.square().sum()
    assert list(task.metrics((LOGITS,), batch(CLASSES), None)) == ["mine", "loss"]


def test_a_function_that_takes_the_teacher_is_taught(own):
    assert own(
        "def loss(teacher, outputs, inputs):\n    return (outputs[0] - teacher[0]).square().mean()"
    ).taught


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def loss(model):\n    return 0", "takes model: it may take"),
        ("def loss():\n    return 0", "takes nothing"),
    ],
)
def test_a_function_that_takes_something_else_is_refused(own, code, says):
    with pytest.raises(TrainingError, match=says):
        own(code)


def test_a_function_that_returns_no_scalar_is_refused(own):
    with pytest.raises(TrainingError, match="return a scalar tensor"):
        own("def loss(outputs):\n    return 3").loss((LOGITS,), batch(), None)
