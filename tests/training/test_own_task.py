"""Tasks of the user's own: what they may be and take, and what is said where they fail."""

import pickle
import sys

import numpy as np
import pytest
import torch

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Mixed
from onnxprune.training.labels import collated, on_device
from onnxprune.training.own_task import Own, own_task
from onnxprune.training.task_choice import choose

LOGITS = torch.tensor([[2.0, -1, 0.5], [0, 3, 1], [-2, 0, 4], [1, 0, 0]])
CLASSES = torch.tensor([0, 1, 2, 0])
KNOWN = Batch((torch.zeros(4, 3),), CLASSES)

CLASS = """
class Task:
    def loss(self, outputs, labels):
        return outputs[0].square().sum()
    def metrics(self, outputs, labels):
        return {"hits": ((outputs[0].argmax(1) == labels).sum(), len(labels)), "top": outputs[0].max()}
    def collate(self, samples):
        return {"sums": np.array([sum(label) for _, label in samples]),
                "inputs": (torch.stack([torch.as_tensor(inputs[0]) for inputs, _ in samples]),)}
task = Task()
loss = task.loss
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes `mytask.py` into the current folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mytask", raising=False)

    def file(code):
        (tmp_path / "mytask.py").write_text(f"import numpy as np, torch\n{code}\n")
        return tmp_path / "mytask.py"

    yield file
    sys.modules.pop("mytask", None)


def metrics(task, known=KNOWN):
    return task.metrics(task.sums((LOGITS,), known, None))


def test_a_function_gets_what_it_asks_for(write):
    write("def loss(outputs, labels):\n    return outputs[0].square().sum(), {'mine': labels.sum()}")
    task = Own.named("mytask:loss")
    assert not task.taught
    assert task.collate is None
    assert task.loss((LOGITS,), KNOWN, None) == LOGITS.square().sum()
    assert metrics(task) == {"mine": 3, "loss": LOGITS.square().sum()}


@pytest.mark.parametrize("name", ["Task", "task"])
def test_a_class_or_an_object_gives_loss_metrics_and_collate(write, name):
    write(CLASS)
    task = Own.named(f"mytask:{name}")
    assert task.loss((LOGITS,), KNOWN, None) == LOGITS.square().sum()
    assert metrics(task) == {"hits": 1, "top": 4, "loss": LOGITS.square().sum()}
    assert list(metrics(task)) == ["hits", "top", "loss"]
    samples = [((np.ones(2),), np.array([1, 2])), ((np.zeros(2),), np.array([3, 4]))]
    labels = on_device(task.collate(samples), torch.device("cpu"))
    assert labels["sums"].tolist() == [3, 7]
    assert labels["inputs"][0].tolist() == [[1, 1], [0, 0]]


def test_a_task_can_be_sent_to_worker_processes(write):
    write(CLASS)
    collate = pickle.loads(pickle.dumps(Own.named("mytask:task").collate))
    assert collate([((np.ones(2),), np.array([1, 2]))])["sums"].tolist() == [3]


@pytest.mark.parametrize("part", ["loss", "metrics"])
def test_a_task_that_takes_the_teacher_is_taught(write, part):
    takes = {"loss": "outputs", "metrics": "outputs", part: "outputs, teacher"}
    write(
        f"class Task:\n    def loss(self, {takes['loss']}): ...\n    def metrics(self, {takes['metrics']}): ..."
    )
    assert Own.named("mytask:Task").taught


def test_what_has_a_default_need_not_be_known(write):
    write("def loss(outputs, power=2, **more):\n    return outputs[0].pow(power).sum()")
    assert Own.named("mytask:loss").loss((LOGITS,), KNOWN, None) == LOGITS.square().sum()


def test_a_module_in_another_folder_is_found(write, tmp_path):
    (tmp_path / "folder").mkdir()
    write("def loss(outputs):\n    return outputs[0].sum()").rename(tmp_path / "folder" / "elsewhere.py")
    assert Own.named("folder/elsewhere:loss").loss((LOGITS,), KNOWN, None) == LOGITS.sum()
    del sys.modules["elsewhere"]


def test_the_distillation_asked_for_is_mixed_in(write):
    write("def loss(outputs):\n    return outputs[0].square().mean(), {'mine': 1.0}")
    task = choose("mytask:loss", KNOWN, (LOGITS,), distill=0.25, temperature=2.0)
    assert isinstance(task, Mixed)
    wanted = 0.75 * (2 * LOGITS).square().mean() + 0.25 * task.distillation.loss(
        (2 * LOGITS,), KNOWN, (LOGITS,)
    )
    torch.testing.assert_close(task.loss((2 * LOGITS,), KNOWN, (LOGITS,)), wanted)
    found = task.metrics(task.sums((LOGITS,), KNOWN, (LOGITS,)))
    assert list(found) == ["mine", "loss", "agreement", "distillation"]


def test_other_names_are_no_tasks_of_ones_own():
    assert own_task("classification") is None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def task(model):\n    return 0", "task takes model: it may take outputs, labels, inputs, teacher"),
        ("def task():\n    return 0", "task takes nothing"),
        ("class task:\n    def loss(self, outputs, boxes): ...", "loss takes boxes: it may take"),
        (
            "class task:\n    def loss(self, outputs): ...\n    def collate(self, labels): ...",
            "collate takes labels",
        ),
        ("class task:\n    pass", "is of type task, not a function: give one, or an object with loss"),
        (
            "class task:\n    def __init__(self, size): ...\n    loss = None",
            "mytask:task: .*missing 1 required",
        ),
        ("class task:\n    loss = 3", "type int is not a function"),
        ("other, more = 1, 2", "mytask has no 'task', but np, torch, other, more: name one of these"),
        ("import nothing_of_this_name", r"mytask.py:2: ModuleNotFoundError: No module named 'nothing_of"),
        ("def task(outputs:\n    return", r"mytask.py:2: SyntaxError"),
        ("x = 1\nx.y", r"mytask.py:3: AttributeError: 'int' object has no attribute 'y'"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(write, code, says):
    write(code)
    with pytest.raises(TrainingError, match=says) as caught:
        Own.named("mytask:task")
    assert "task mytask:task" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("3", "its loss is of type int: return a scalar tensor"),
        ("outputs[0]", r"its loss is of type Tensor \(4, 3\): return a scalar tensor"),
        ("outputs[0].sum(), 3", "its metrics are of type int: return a dict of numbers"),
        ("outputs[0].sum(), {'iou': 'high'}", "metric 'iou' is of type str: return a number"),
        ("outputs[0].sum(), {'iou': None}", "metric 'iou' is of type NoneType"),
        ("outputs[0].sum(), {'iou': outputs[0]}", "metric 'iou' is of type Tensor"),
        ("outputs[0].sum(), {'iou': (1, 2, 3)}", "metric 'iou' is of type tuple"),
        ("outputs[0].sum() / 0", "its loss over the held-out samples is inf"),
        ("outputs[0].sum() * float('nan')", "its loss over the held-out samples is nan"),
    ],
)
def test_what_is_no_loss_or_metric_is_refused_in_one_line(write, returned, says):
    write(f"def task(outputs):\n    return {returned}")
    with pytest.raises(TrainingError, match=says) as caught:
        metrics(Own.named("mytask:task"))
    assert "\n" not in str(caught.value)


def test_a_metric_of_which_nothing_counted_is_0(write):
    write("def task(outputs):\n    return outputs[0].sum(), {'recall': (0, 0), 'other': (1, 2)}")
    assert metrics(Own.named("mytask:task")) == {"recall": 0, "other": 0.5, "loss": LOGITS.sum()}


@pytest.mark.parametrize(("part", "line"), [("loss", 5), ("metrics", 7), ("collate", 9)])
def test_an_error_names_the_line_in_the_users_file(write, part, line):
    fine = {"loss": "torch.zeros(())", "metrics": "{}", "collate": "torch.zeros(1)"}
    body = {**fine, part: "torch.zeros(2) + torch.zeros(3)"}
    path = write(f"""
class Task:
    def loss(self, outputs):
        return {body["loss"]}
    def metrics(self, outputs):
        return {body["metrics"]}
    def collate(self, samples):
        return {body["collate"]}
""")
    task = Own.named("mytask:Task")
    with pytest.raises(TrainingError) as caught:
        metrics(task)
        task.collate([((np.ones(2),), 1)])
    assert str(caught.value).startswith(
        f"task mytask:Task: {path}:{line}: RuntimeError: The size of tensor a (2)"
    )
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_below_the_users_file_names_the_line_that_led_there(write):
    path = write("def task(outputs):\n    return torch.nn.functional.mse_loss(outputs[0], 'nothing')")
    with pytest.raises(TrainingError, match=f"{path}:3: "):
        metrics(Own.named("mytask:task"))


def test_a_collate_that_returns_no_tensors_is_refused(write):
    write(
        "class Task:\n    def loss(self, outputs): ...\n    def collate(self, samples): return {'a': ['text']}"
    )
    with pytest.raises(TrainingError, match="collate returned type str: return a tensor or array, or a dict"):
        Own.named("mytask:Task").collate([((np.ones(2),), 1)])


@pytest.mark.parametrize("labels", [torch.tensor([5, 6]), None])
def test_a_collate_gets_each_sample_with_its_inputs_and_label(labels):
    inputs = (torch.tensor([[1, 2], [3, 4]]), torch.tensor([7, 8]))
    samples = collated(list, inputs, labels)
    assert [[x.tolist() for x in sample] for sample, _ in samples] == [[[1, 2], 7], [[3, 4], 8]]
    assert [label for _, label in samples] == ([5, 6] if labels is not None else [None, None])
    assert collated(None, inputs, labels) is labels
