"""A task of the user's: a function or an object named `module:object`; docs/tasks.md is written for them."""

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.labels import Collate, Sample, mapped
from onnxprune.training.tasks import Metrics, Outputs, Sums, ratio
from onnxprune.training.user_code import import_from

NAMES = ("outputs", "labels", "inputs", "teacher")
PREFIX = "own/"  # of its sums, which may stand beside the distillation's


@dataclass(frozen=True)
class Part:
    """A function of the user's, called with what it asks for by name."""

    task: str
    file: str
    function: Callable[..., Any]
    asks: frozenset[str]

    @staticmethod
    def of(task: str, file: str, function: object, names: Sequence[str]) -> "Part":
        """TrainingError where `function` is none, or takes other names than these."""
        if not callable(function):
            raise TrainingError(f"task {task}: type {type(function).__name__} is not a function")
        taken = {
            name: parameter.default is not parameter.empty
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        asks = frozenset(taken) & set(names)
        unknown = sorted(name for name, optional in taken.items() if not optional and name not in names)
        if unknown or not asks:
            called = getattr(function, "__name__", type(function).__name__)
            found = ", ".join(unknown) or "nothing"
            raise TrainingError(f"task {task}: {called} takes {found}: it may take {', '.join(names)}")
        return Part(task, file, function, asks)

    def __call__(self, **known: Any) -> Any:
        """Whatever the function raises becomes one line that names its place in the user's file."""
        try:
            return self.function(**{name: value for name, value in known.items() if name in self.asks})
        except Exception as error:
            raise TrainingError(f"task {self.task}: {_told(error, self.file)}") from error


@dataclass(frozen=True)
class Own:
    """Its loss, and where the user gave them its metrics and its collate."""

    name: str
    loss_part: Part
    metrics_part: Part | None = None
    collate_part: Part | None = None

    @staticmethod
    def named(name: str) -> "Own":
        """The task `module:object`; TrainingError where there is none or it takes unknown names."""
        found, file = _found(name)
        if inspect.isclass(found):
            found = Part(name, file, found, frozenset())()
        if not hasattr(found, "loss"):
            if not inspect.isroutine(found):
                kind = type(found).__name__
                raise TrainingError(
                    f"task {name} is of type {kind}, not a function: give one, or an object with loss(...)"
                )
            return Own(name, Part.of(name, file, found, NAMES))
        parts = {"loss": NAMES, "metrics": NAMES, "collate": ("samples",)}
        made = {
            part: Part.of(name, file, getattr(found, part), names)
            for part, names in parts.items()
            if hasattr(found, part)
        }
        return Own(name, made["loss"], made.get("metrics"), made.get("collate"))

    @property
    def taught(self) -> bool:
        return any("teacher" in part.asks for part in (self.loss_part, self.metrics_part) if part is not None)

    @property
    def collate(self) -> Collate | None:
        """None where the user gave none."""
        return None if self.collate_part is None else self._collated

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Tensor:
        return self._loss_and_metrics(outputs, batch, teacher)[0]

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None) -> Sums:
        loss, metrics = self._loss_and_metrics(outputs, batch, teacher)
        if self.metrics_part is not None:
            metrics = self.metrics_part(**_known(outputs, batch, teacher))
        if not isinstance(metrics, Mapping):
            kind = type(metrics).__name__
            raise TrainingError(f"task {self.name}: its metrics are of type {kind}: return a dict of numbers")
        sums = {f"{PREFIX}{n}": self._sum(n, value, len(batch)) for n, value in metrics.items()}
        return {**sums, f"{PREFIX}loss": self._sum("loss", loss, len(batch))}

    def metrics(self, sums: Sums) -> Metrics:
        """A metric of which nothing was counted is 0, as torchmetrics has it."""
        own = {name.removeprefix(PREFIX): s for name, s in sums.items() if name.startswith(PREFIX)}
        found = {name: ratio(s) if s[1] else 0.0 for name, s in own.items()}
        if not np.isfinite(found["loss"]):
            raise TrainingError(
                f"task {self.name}: its loss over the held-out samples is {found['loss']}: check it and the data"
            )
        return found

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch, tuple(o.detach() for o in outputs))

    def _loss_and_metrics(
        self, outputs: Outputs, batch: Batch, teacher: Outputs | None
    ) -> tuple[Tensor, Any]:
        result = self.loss_part(**_known(outputs, batch, teacher))
        pair = isinstance(result, tuple) and len(result) == 2
        loss, metrics = result if pair else (result, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f" {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            kind = type(loss).__name__
            raise TrainingError(
                f"task {self.name}: its loss is of type {kind}{shape}: return a scalar tensor"
            )
        return loss.reshape(()), metrics

    def _collated(self, samples: Sequence[Sample]) -> Any:
        assert self.collate_part is not None
        return mapped(self._tensor, self.collate_part(samples=list(samples)))

    def _tensor(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor | np.ndarray | np.generic):
            raise TrainingError(
                f"task {self.name}: collate returned type {type(value).__name__}: "
                "return a tensor or array, or a dict, tuple or list of them"
            )
        return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))

    def _sum(self, name: str, value: Any, samples: int) -> Tensor:
        """(2,): a mean over the batch times its size, or a pair as it is."""
        parts = value if isinstance(value, tuple | list) and len(value) == 2 else (value,)
        try:
            numbers = [torch.as_tensor(p).detach().cpu().double().reshape(()) for p in parts]
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"task {self.name}: metric {name!r} is of type {type(value).__name__}: "
                "return a number, the mean over the batch, or a pair (sum, count)"
            ) from error
        return torch.stack(
            numbers if len(numbers) == 2 else [numbers[0] * samples, torch.tensor(samples).double()]
        )


def own_task(name: str) -> Own | None:
    """The task called `name` where that is `module:object`, else None."""
    return Own.named(name) if ":" in name else None


def _known(outputs: Outputs, batch: Batch, teacher: Outputs | None) -> dict[str, Any]:
    return {"outputs": outputs, "labels": batch.labels, "inputs": batch.inputs, "teacher": teacher}


def _found(name: str) -> tuple[Any, str]:
    """The object called `module:object` or `folder/module:object`, and the module's file."""
    path, _, attribute = name.partition(":")
    folder, module = Path(path).parent.resolve(), Path(path).name
    try:
        imported = import_from(folder, module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise TrainingError(f"task {name}: {_told(error, None)}") from error
        raise TrainingError(
            f"task {name}: there is no module {error.name!r} in {folder}, on PYTHONPATH or installed: "
            "give an importable module:object"
        ) from error
    except Exception as error:
        raise TrainingError(f"task {name}: {_told(error, None)}") from error
    try:
        return attrgetter(attribute)(imported), getattr(imported, "__file__", None) or ""
    except AttributeError:
        has = ", ".join(n for n in vars(imported) if not n.startswith("_"))[:200]
        raise TrainingError(
            f"task {name}: {module} has no {attribute!r}, but {has}: name one of these"
        ) from None


def _told(error: Exception, file: str | None) -> str:
    """Where and what in one line: the last line in `file` on the way, else the last of all."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f for f in frames if f.filename == file] or [
            f for f in frames if "importlib" not in f.filename
        ]
        where = f"{places[-1].filename}:{places[-1].lineno}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {type(error).__name__}: {' '.join(text.split())}".removesuffix(": ")
