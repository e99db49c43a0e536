"""The run: gates and weights trained together until the budget is met, then weights with frozen gates."""

import logging
import math
import time
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune import to_torch
from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch, Batches, check_augmentable, drawn
from onnxprune.training.budget import Budget, Costs
from onnxprune.training.clock import Clock
from onnxprune.training.data import Data
from onnxprune.training.evaluate import evaluate, outputs_of, remeasure
from onnxprune.training.gating import Gating, method_of
from onnxprune.training.interrupts import Interrupts
from onnxprune.training.latents import Latents
from onnxprune.training.processes import accelerator_for, average
from onnxprune.training.run_folder import RunFolder
from onnxprune.training.settings import Outcome, Progress, Report, Settings
from onnxprune.training.student import Student
from onnxprune.training.task_choice import task_for
from onnxprune.training.tasks import Outputs

log = logging.getLogger(__name__)

RANKING_BATCH = 32


def run(
    gated: onnx.ModelProto,
    costs: Costs,
    data: Data,
    settings: Settings,
    *,
    validation: Data | None,
    teacher: onnx.ModelProto | None,
    progress: Report | None,
    context: Mapping[str, Any] | None,
    resume: bool,
) -> Outcome:
    """See onnxprune.training.train."""
    if validation is None:
        data, validation = data.split(settings.validation, settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        training = Training(gated, costs, data, settings, validation=validation, teacher=teacher)
        if resume:
            training.take_up(RunFolder.open(settings.run_dir or "."))
        else:
            training.begin(context)
        with Interrupts() as interrupts:
            training.go_on(interrupts, progress)
        return training.outcome()


class Training:
    """One run's state between two steps."""

    def __init__(
        self,
        gated: onnx.ModelProto,
        costs: Costs,
        data: Data,
        settings: Settings,
        *,
        validation: Data,
        teacher: onnx.ModelProto | None,
    ) -> None:
        self.gated, self.settings = gated, settings
        self.accelerator = accelerator_for(settings)
        processes, device = self.accelerator.num_processes, self.accelerator.device
        budget = Budget.of(
            costs, settings.by, settings.ratio, least=settings.floor_channels, share=settings.floor_share,
            multiple_of=settings.multiple_of,
        )  # fmt: skip
        names = dict(zip(costs.names, costs.sizes, strict=True))
        self.student = Student(gated, settings, method_of(settings).value, self._laid_out, names)
        self.teacher = self._laid_out(to_torch.load(teacher or gated)).eval().requires_grad_(False)
        if teacher is None:
            Latents.of(self.teacher, names).write(np.ones(budget.gates, np.float32))
        if settings.augment != "none":
            check_augmentable(data)
        mine = np.arange(self.accelerator.process_index, len(validation), processes)
        self.data = Batches(data, device, settings.channels_last)
        self.held_out = Batches(validation.take(mine), device, settings.channels_last)
        self.per_epoch = max(1, len(data) // (settings.batch_size * processes))
        self.steps = self.per_epoch * settings.epochs
        self.gating = Gating(self.student.latents, budget, settings, self.steps)
        self.task = task_for(settings, self.teacher, self.data)
        self.step, self.seconds = 0, 0.0
        self.before: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        self.folder: RunFolder | None = None

    def begin(self, context: Mapping[str, Any] | None) -> None:
        """Everything before the first step: the original's metrics, and where the gates start."""
        settings, began = self.settings, time.monotonic()
        if settings.run_dir is not None and self.accelerator.is_main_process:
            self.folder = RunFolder.create(settings.run_dir, settings, context)
        self.before = self._metrics(self.teacher)
        if not all(map(math.isfinite, self.before.values())):
            raise TrainingError(
                "the original model's metrics are not finite: check the data, its mean and std"
            )
        if settings.method == "finetune":
            self._freeze(repair=False)
        else:
            if settings.start == "ranked":
                self._rank()
            if self.gating.projected and self.gating.ramp_steps == 0:
                self._freeze(repair=True)
        self.seconds = time.monotonic() - began

    def take_up(self, folder: RunFolder) -> None:
        """Where the last checkpoint of `folder` left off."""
        tensors, state = folder.load()
        if state["steps"] != self.steps:
            raise TrainingError(
                f"the run has {state['steps']} steps, not {self.steps}: resume it as it was started"
            )
        self.gating.resume(tensors["w"].numpy(), tensors["unit"].numpy(), state["start"], state["frozen"])
        if state["shrunk"]:
            self.student.shrink(self.data.take(np.arange(min(len(self.data.data), 8))))
        self.student.restore(tensors)
        self.step, self.seconds = state["step"], state["seconds"]
        self.before, self.history = state["before"], state["history"]
        if self.accelerator.is_main_process:
            self.folder = folder
            folder.rewind(self.step)

    def go_on(self, interrupts: Interrupts, progress: Report | None) -> None:
        """The steps that are left; an interrupt writes a checkpoint and raises TrainingError."""
        clock, losses = Clock(self.step, self.seconds), list[Tensor]()
        self.student.module.train()
        batches = self._batches()
        for batch in batches:
            loss, stop, save = self._train_step(batch, interrupts.asked, clock.due(self.settings))
            self.step += 1
            self.seconds = clock.seconds()
            losses.append(loss)
            end_of_epoch = self.step % self.per_epoch == 0
            if end_of_epoch or self.step % self.settings.report_every == 0:
                self._report(losses, end_of_epoch, clock.left(self.step, self.steps), progress)
                losses = []
            if stop:
                break
            if end_of_epoch or save:
                self._save()
                clock.saved()
        batches.close()
        if self.step < self.steps:
            self._save()
            folder = self.settings.run_dir
            way = f"resume {folder} to go on" if folder else "without a run folder nothing was kept"
            raise TrainingError(f"interrupted after step {self.step} of {self.steps}: {way}")

    def outcome(self) -> Outcome:
        """The trained model and its metrics."""
        gating, settings = self.gating, self.settings
        asked = gating.reached if settings.method == "finetune" else settings.ratio
        opened = gating.budget.opened(gating.w).tolist()
        shortfall = gating.shortfall(asked)
        return Outcome(
            model=self.student.written(gating.w),
            asked=asked,
            by=settings.by,
            reached=gating.reached,
            kept=dict(zip(gating.budget.costs.names, opened, strict=True)),
            before=self.before,
            after=self.history[-1]["metrics"],
            epochs=settings.epochs,
            seconds=self.seconds,
            warnings=() if shortfall is None else (shortfall,),
            history=tuple(self.history),
            run_dir=settings.run_dir,
        )

    def _train_step(self, batch: Batch, stop: bool, save: bool) -> tuple[Tensor, bool, bool]:
        """One step; returns its loss, and what of `stop` and `save` any process wants."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # Dropout draws the same when resumed
        rate = self.settings.lr * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.student.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            wanted = self._taught(batch)
            outputs = outputs_of(self.student.module, batch)
        loss = self.task.loss(outputs, batch, wanted)
        if not self.gating.frozen and not self.gating.projected:
            loss = loss + self.settings.penalty * self.gating.penalty()
        if not self.gating.frozen or loss.device.type == "cpu":  # later on a GPU, when it is reported
            self._check(loss.item())
        self.accelerator.backward(loss)
        wishes = torch.tensor([float(stop), float(save)], device=loss.device)
        average(
            self.accelerator,
            [p.grad for p in self.student.module.parameters() if p.grad is not None] + [wishes],
        )
        self.student.optimizer.step()
        if not self.gating.frozen and self.gating.move(self.step):
            self._freeze(repair=self.gating.projected)
        self.student.optimizer.zero_grad()
        any_stop, any_save = (wishes > 0).tolist() if self.accelerator.num_processes > 1 else (stop, save)
        return loss.detach(), any_stop, any_save

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Outputs | None:
        return outputs_of(self.teacher, batch) if self.task.taught else None

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {self.step + 1} of {self.steps}: lower the learning rate "
                f"(now {self.settings.lr:g}), or check the data"
            )

    def _freeze(self, repair: bool) -> None:
        """The gates as they are from here on, and BatchNorm statistics that know them."""
        self.gating.freeze(repair)
        if self.settings.shrink:
            self.student.shrink(self.data.take(np.arange(min(len(self.data.data), 8))))
        remeasure(
            self.student.module,
            self.data.sampled(self.settings.remeasure_batches, self.settings.batch_size, self.settings.seed),
        )
        log.info("gates frozen after step %d, %.4f kept", self.step, self.gating.reached)

    def _rank(self) -> None:
        """Measured in eval mode: the running statistics stay as they are."""
        self.gating.open_all()
        batches = self.data.sampled(self.settings.ranking_batches, RANKING_BATCH, self.settings.seed)
        losses = (self.task.probe(outputs_of(self.student.module, batch), batch) for batch in batches)
        scores = torch.from_numpy(self.gating.importance(losses)).to(self.accelerator.device)
        average(self.accelerator, [scores])  # so that all processes start alike
        self.gating.rank(scores.cpu().numpy())

    def _metrics(self, module: nn.Module) -> dict[str, float]:
        average(self.accelerator, list(module.buffers()))
        batches = self.held_out.in_order(2 * self.settings.batch_size)
        return evaluate(self.accelerator, module, self.teacher, self.task, batches)

    def _report(self, losses: list[Tensor], end_of_epoch: bool, left: float, progress: Report | None) -> None:
        """A line of metrics, and at the end of an epoch its entry in the history."""
        loss = float(torch.stack(losses).mean())
        self._check(loss)
        epoch, gating = math.ceil(self.step / self.per_epoch), self.gating
        entry: dict[str, Any] = {
            "step": self.step, "epoch": epoch, "loss": loss, "reached": gating.reached,
            "rho": gating.rho(self.step), "frozen": gating.frozen, "seconds": round(self.seconds, 3),
        }  # fmt: skip
        if end_of_epoch:
            every = self.settings.evaluate_every
            if self.step == self.steps or (every and epoch % every == 0):
                entry["metrics"] = self._metrics(self.student.module)
            self.history.append(entry)
        if self.folder is not None:
            self.folder.report(entry)
        if progress is not None and self.accelerator.is_main_process:
            known = next((e["metrics"] for e in reversed(self.history) if "metrics" in e), self.before)
            progress(
                Progress(
                    epoch=epoch,
                    epochs=self.settings.epochs,
                    step=self.step,
                    steps=self.steps,
                    loss=loss,
                    metrics=known,
                    reached=gating.reached,
                    rho=gating.rho(self.step),
                    frozen=gating.frozen,
                    eta=left,
                )
            )

    def _save(self) -> None:
        average(self.accelerator, list(self.student.module.buffers()))
        if self.folder is not None:
            state = {
                "step": self.step, "steps": self.steps, "seconds": self.seconds, "frozen": self.gating.frozen,
                "shrunk": self.student.shrunk is not None, "start": self.gating.start,
                "before": self.before, "history": self.history,
            }  # fmt: skip
            gates = {"w": torch.from_numpy(self.gating.w), "unit": torch.from_numpy(self.gating.unit)}
            self.folder.save(self.student.tensors() | gates, state)

    def _batches(self) -> Generator[Batch]:
        """What this process takes of each step left; the same for the same seed, wherever it starts."""
        index, processes = self.accelerator.process_index, self.accelerator.num_processes
        size, seed = self.settings.batch_size * processes, self.settings.seed
        draws = drawn(len(self.data.data), size, seed, range(self.step, self.steps))
        mine = ((step, rows[index::processes]) for step, rows in draws)
        return self.data.drawn(mine, (seed, index) if self.settings.augment != "none" else None)

    def _laid_out(self, module: fx.GraphModule) -> fx.GraphModule:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        return module.to(self.accelerator.device).to(memory_format=layout)
