"""Tasks with made-up outputs and labels of 22 samples, unevenly many of which count."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxprune.training.batches import Batch
from onnxprune.training.distillation import Distillation, Head, Mixed
from onnxprune.training.own_task import NAMES, Own, Part
from onnxprune.training.segmentation import Segmentation
from onnxprune.training.tasks import Classification, Regression, Task

DIVIDED = ("classification", "segmentation", "regression", "distillation", "mixed", "own")
SHAPES = {"regression": (22, 2), "segmentation": (22, 5, 4, 4), "distillation": (22, 3, 4, 4)}


def _loss(outputs: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, dict[str, object]]:
    found = (outputs[0].argmax(1) == labels)[labels >= 0]
    loss = F.cross_entropy(outputs[0], labels.clamp_min(0))
    return loss, {"recall": (int(found.sum()), len(found)), "positive": outputs[0].clamp_min(0).mean()}


def task_of(name: str) -> Task:
    logits, values = Head("logits", 1.0), Head("values", 2.0)
    tasks: dict[str, Task] = {
        "classification": Classification(),
        "segmentation": Segmentation(),
        "regression": Regression(3.0),
        "distillation": Distillation((logits, values)),
        "mixed": Mixed(Classification(), Distillation((logits,)), 0.5),
        "own": Own("mytask:loss", Part.of("mytask:loss", __file__, _loss, NAMES)),
    }
    return tasks[name]


class _Shifted(nn.Module):
    """Its inputs as outputs, shifted."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x + self.shift * x.roll(1, 1) for x in inputs)


def model_of(name: str) -> tuple[nn.Module, nn.Module]:
    """A model and its teacher."""
    return _Shifted(0.0), _Shifted(0.7)


def batches_of(name: str, which: Iterable[int], size: int) -> Iterator[Batch]:
    draw = torch.Generator().manual_seed(1)
    outputs = [torch.randn(SHAPES.get(name, (22, 25)), generator=draw)]
    if name == "distillation":
        outputs.append(torch.randn(22, 4, generator=draw))
    if name == "regression":
        labels = torch.randn(22, 2, generator=draw)
    else:
        labels = torch.randint(-2, outputs[0].shape[1], (22, *outputs[0].shape[2:]), generator=draw)
        labels[7:13] = -1
    rows = list(which)
    for start in range(0, len(rows), size):
        part = torch.tensor(rows[start : start + size])
        yield Batch(tuple(o[part] for o in outputs), None if name == "distillation" else labels[part])
