"""One step of the weights: forward, backward, the mean over batches and processes, the optimizer."""

import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.evaluate import outputs_and_values
from onnxprune.training.processes import average
from onnxprune.training.schedule import factor
from onnxprune.training.settings import Settings
from onnxprune.training.student import Student
from onnxprune.training.tasks import Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Stepper:
    """Steps of `student` towards `task`; of the gates it leaves the gradients."""

    def __init__(
        self,
        accelerator: Accelerator,
        student: Student,
        teacher: nn.Module,
        task: Task,
        settings: Settings,
        steps: int,
    ) -> None:
        self.accelerator, self.student, self.teacher, self.task = accelerator, student, teacher, task
        self.settings, self.steps = settings, steps
        self.dtype = DTYPES[settings.precision]
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "float16")

    def rate(self, step: int) -> float:
        """The learning rate of step number `step` (from 0)."""
        shape = factor(self.settings.schedule, step, self.steps, self.settings.warmup)
        return self.settings.peak_lr * shape

    def step(
        self, step: int, batches: Sequence[Batch], more: Callable[[], Tensor | None], told: Tensor
    ) -> Tensor:
        """Step number `step` on the mean of `batches`; returns its loss.

        `more` is added to the loss; `told` is averaged over all processes on the way, in place.
        """
        torch.manual_seed(self.settings.seed * 1_000_003 + step)  # Dropout draws the same when resumed
        for group in self.student.optimizer.param_groups:
            group["lr"] = self.rate(step)
        losses = [self._backward(batch, more, len(batches), step) for batch in batches]
        average(self.accelerator, [*self._gradients(), told])
        self.scaler.unscale_(self.student.optimizer)
        self._unscale_gates()
        if self.settings.clip is not None:
            weights = [p for group in self.student.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.settings.clip)
        self.scaler.step(self.student.optimizer)
        self.scaler.update()
        if self.student.average is not None:
            self.student.average.follow(self.student.module)
        return torch.stack(losses).sum()

    def clear(self) -> None:
        """Forget the gradients."""
        self.student.optimizer.zero_grad()

    def check(self, loss: float, step: int) -> None:
        """Raises TrainingError where training has diverged."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {step + 1} of {self.steps}: lower the learning rate "
                f"(now {self.rate(step):g}), or check the data"
            )

    def _backward(self, batch: Batch, more: Callable[[], Tensor | None], parts: int, step: int) -> Tensor:
        features = self.student.features
        with torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32):
            wanted, shown = None, tuple[Tensor, ...]()
            if self.task.taught or features.names:
                with torch.no_grad():
                    wanted, shown = outputs_and_values(self.teacher, batch)
            outputs, values = self.student.run(batch)
        loss = self.task.loss(outputs, batch, wanted)
        if features.names:
            loss = loss + self.settings.feature_weight * features.loss(values, shown)
        added = more()
        loss = (loss if added is None else loss + added) / parts
        if loss.device.type == "cpu":  # on a GPU when it is reported, so that no step waits for it
            self.check(loss.item(), step)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.student.module.parameters() if p.grad is not None]

    def _unscale_gates(self) -> None:
        """The scaler knows the weights only; a step that it skips, as gradients overflowed, moves no gate either."""
        if not self.scaler.is_enabled():
            return
        scale = self.scaler.get_scale()
        for tensor in self.student.latents.tensors:
            if tensor.grad is not None:
                tensor.grad = torch.nan_to_num(tensor.grad / scale, nan=0.0, posinf=0.0, neginf=0.0)
