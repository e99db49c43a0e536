"""Which task a run is for, from its name, the data and what the original model puts out."""

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.tasks import Classification, Outputs, Own, Regression, Task, labels_of

DISTILLED = 0.9  # weight of distillation beside labels, where nothing else is asked


def choose(name: str, batch: Batch, teacher: Outputs, *, distill: float | None, temperature: float) -> Task:
    """The task called `name`, for a model with outputs `teacher` on `batch`, some training samples."""
    if ":" in name:
        return Own.named(name)
    if not teacher:
        raise TrainingError("the model has no floating-point output to train: give a task of your own")
    heads = tuple(Head.of(output) for output in teacher)
    distillation = Distillation(heads, temperature)
    weight = (DISTILLED if name == "auto" else 0.0) if distill is None else distill
    if name == "distillation" or (name == "auto" and batch.labels is None):
        if all(head.kind == "none" for head in heads):
            raise TrainingError("the model's outputs are constant on the data: there is nothing to distil")
        return distillation
    labels = labels_of(batch, name)
    task: Task
    if name == "regression" or (name == "auto" and labels.is_floating_point()):
        task = Regression(max(float(labels.float().var(correction=0)), 1e-12))
        task.loss(teacher, batch)  # says so where the shapes do not fit
    elif name in ("auto", "classification"):
        classification = Classification(heads[0].kind == "probabilities")
        classification.check(teacher, batch)
        task = classification
    else:
        raise TrainingError(
            f"task {name!r} is unknown: give auto, classification, regression, distillation, module:name"
        )
    return Mixed(task, distillation, weight) if weight > 0 else task
