"""The run: gates and weights trained together until the budget is met, then weights with frozen gates."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune import to_torch
from onnxprune.errors import TrainingError
from onnxprune.training.augmentation import Augmentation
from onnxprune.training.batches import Batch
from onnxprune.training.budget import Budget, Costs
from onnxprune.training.clock import Clock
from onnxprune.training.data import Data
from onnxprune.training.evaluate import evaluate, outputs_of
from onnxprune.training.features import Features
from onnxprune.training.feed import Feed
from onnxprune.training.gating import Gating, method_of
from onnxprune.training.interrupts import Interrupts
from onnxprune.training.latents import Parameters, groups_of
from onnxprune.training.own_task import own_task
from onnxprune.training.processes import accelerator_for, average, synchronise
from onnxprune.training.reporting import Reporter
from onnxprune.training.run_folder import RunFolder
from onnxprune.training.settings import Outcome, Ranker, Report, Settings
from onnxprune.training.statistics import settle
from onnxprune.training.stepping import Stepper
from onnxprune.training.student import Student
from onnxprune.training.task_choice import classes_of, task_for

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
    ranking: Ranker | None,
    progress: Report | None,
    context: Mapping[str, Any] | None,
    resume: bool,
) -> Outcome:
    """See onnxprune.training.train."""
    if validation is None:
        data, validation = data.split(settings.validation, settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        training = Training(
            gated, costs, data, settings, validation=validation, teacher=teacher, progress=progress
        )
        folder = RunFolder.open(settings.run_dir or ".") if resume else None
        with closing(training.reporter):
            if folder is not None and folder.begun:
                training.take_up(folder)
            else:
                training.begin(context, folder, ranking)
            with Interrupts() as interrupts:
                training.go_on(interrupts)
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
        progress: Report | None,
    ) -> None:
        self.gated, self.settings = gated, settings
        self.accelerator = accelerator_for(settings)
        own = own_task(settings.task)
        self.feed = Feed(data, validation, settings, self.accelerator, own.collate if own else None)
        steps = self.feed.steps
        budget = Budget.of(
            costs, settings.budget, least=settings.floor_channels, share=settings.floor_share,
            multiple_of=settings.multiple_of,
        )  # fmt: skip
        sizes, method = dict(zip(costs.names, costs.sizes, strict=True)), method_of(settings)
        groups = cache(lambda: groups_of(gated))
        features = Features.of(settings.features, groups, [gated, teacher or gated], sizes)
        self.student = Student(gated, settings, method, self._laid_out, sizes, features)
        original = to_torch.load(teacher or gated, also=features.names)
        self.teacher = self._laid_out(original).eval().requires_grad_(False)
        if teacher is None:
            Parameters.of(self.teacher, sizes).write(np.ones(budget.gates, np.float32))
        self.gating = Gating(method, budget, settings, steps)
        state = self.student.module.state_dict(keep_vars=True)
        self.gating.attach(self.student.latents, groups, state)
        self.student.put_masks()
        self.task = task_for(settings, self.teacher, self.feed.data, own)
        self.augmentation = Augmentation.of(settings.augment, classes_of(self.task))
        if self.augmentation is not None:
            self.augmentation.check(data)
        self.stepper = Stepper(self.accelerator, self.student, self.teacher, self.task, settings, steps)
        watched = progress if self.accelerator.is_main_process else None
        self.reporter = Reporter(settings.epochs, steps, watched)
        self.step, self.seconds = 0, 0.0

    def begin(
        self, context: Mapping[str, Any] | None, folder: RunFolder | None, ranking: Ranker | None
    ) -> None:
        """Everything before the first step: the original's metrics, and where the gates start."""
        settings, began = self.settings, time.monotonic()
        if settings.run_dir is not None and self.accelerator.is_main_process:
            self.reporter.folder = folder or RunFolder.create(settings.run_dir, settings, context)
            self.reporter.folder.rewind(0)
        self.reporter.before = self._metrics(self.teacher)
        for name, value in self.reporter.before.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"the original model's {name} on the held-out samples is {value}: check the data, its mean and std"
                )
        scores, ranked = None, self._ranked()
        if ranked:
            self.gating.open_all()
        if ranked and self.gating.method.scored:
            scores = self._importance() if ranking is None else self._alike(ranking(self.feed.data.data))
        elif ranking is not None:
            log.warning("the ranking is not used: gates of this run do not start at ranks of importance")
        self.gating.begin(scores)
        if self.gating.frozen:
            self._frozen()
        self.seconds = time.monotonic() - began

    def take_up(self, folder: RunFolder) -> None:
        """Where the last checkpoint of `folder` left off."""
        tensors, state = folder.load()
        if state["steps"] != self.feed.steps:
            raise TrainingError(
                f"the run has {state['steps']} steps, not {self.feed.steps}: resume it as it was started"
            )
        self.gating.resume(tensors, state["gating"])
        if self.gating.frozen:
            self.student.frozen(self.feed.few())
            if (self.student.shrunk is not None) != state["shrunk"]:
                raise TrainingError(f"{folder.path}: was made by another version: start the run anew")
        self.student.restore(tensors, state["averaged"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.reporter.before, self.reporter.history = state["before"], state["history"]
        if self.accelerator.is_main_process:
            self.reporter.folder = folder
            folder.rewind(self.step)

    def go_on(self, interrupts: Interrupts) -> None:
        """The steps that are left; an interrupt writes a checkpoint and raises TrainingError."""
        clock, losses = Clock(self.step, self.seconds), list[Tensor]()
        self.student.module.train()
        batches = self.feed.after(self.step, self.augmentation)
        for parts in batches:
            loss, stop, save = self._train_step(parts, interrupts.asked, clock.due(self.settings))
            self.step += 1
            self.seconds = clock.seconds()
            losses.append(loss)
            end_of_epoch = self.step % self.feed.per_epoch == 0
            if end_of_epoch or self.step % self.settings.report_every == 0:
                self._report(losses, end_of_epoch, clock.left(self.step, self.feed.steps))
                losses = []
            if stop:
                break
            if end_of_epoch or save:
                self._save()
                clock.saved()
        batches.close()
        if self.step < self.feed.steps:
            self._save()
            folder = self.settings.run_dir
            way = (
                f"go on with onnxprune train --resume {folder}"
                if folder
                else "without a run folder nothing was kept"
            )
            raise TrainingError(f"interrupted after step {self.step} of {self.feed.steps}: {way}")

    def outcome(self) -> Outcome:
        """The trained model and its metrics."""
        gating, settings, budget = self.gating, self.settings, self.gating.budget
        opened = budget.opened(gating.w)
        shares, kept = budget.shares(opened), dict(zip(budget.costs.names, opened.tolist(), strict=True))
        given = not gating.method.trains and not self._ranked()
        shortfall = gating.shortfall()
        return Outcome(
            model=self.student.written(gating.w),
            asked=shares[settings.by] if given else settings.ratio,
            by=settings.by,
            reached=shares[settings.by],
            shares=shares,
            kept=kept,
            before=self.reporter.before,
            after=self.reporter.history[-1]["metrics"],
            epochs=settings.epochs,
            seconds=self.seconds,
            warnings=() if shortfall is None or given else (shortfall,),
            history=tuple(self.reporter.history),
            run_dir=settings.run_dir,
            main=self.accelerator.is_main_process,
        )

    def _train_step(self, parts: list[Batch], stop: bool, save: bool) -> tuple[Tensor, bool, bool]:
        """One step; returns its loss, and what of `stop` and `save` any process wants."""
        gating, wishes = self.gating, torch.tensor([float(stop), float(save)]).to(self.accelerator.device)
        more = gating.method.loss if not gating.frozen else lambda: None
        loss = self.stepper.step(self.step, parts, more, wishes)
        if not gating.frozen:
            gating.move(self.step)
            if gating.frozen:
                self._frozen()
        self.stepper.clear()
        any_stop, any_save = (wishes > 0).tolist() if self.accelerator.num_processes > 1 else (stop, save)
        return loss, any_stop, any_save

    def _frozen(self) -> None:
        """The gates are frozen: the module that trains on, and BatchNorm statistics that know them."""
        self.student.frozen(self.feed.few())
        count, size, seed = self.settings.remeasure_batches, self.settings.batch_size, self.settings.seed
        count *= self.accelerator.num_processes  # the samples that one process would take
        batches = partial(self.feed.data.sampled, count, size, seed)
        stays = settle(self.student.module, batches, self._loss)
        log.info(
            "BatchNorm statistics measured anew; the model computes %s", "what it did" if stays else "by them"
        )
        if self.student.average is not None:
            self.student.average.copy(self.student.module)
        log.info("gates frozen after step %d, %.4f kept", self.step, self.gating.reached)

    def _loss(self, batch: Batch) -> Tensor:
        """As in a step, without autocast and what the method adds; the same for all processes."""
        wanted = outputs_of(self.teacher, batch) if self.task.taught else None
        loss = self.task.loss(outputs_of(self.student.module, batch), batch, wanted)
        average(self.accelerator, [loss])
        return loss

    def _ranked(self) -> bool:
        """Whether the gates start at ranks, rather than as the file has them."""
        if self.settings.start != "auto":
            return self.settings.start == "ranked"
        return self.gating.method.trains or self.gating.given == 1.0

    def _importance(self) -> np.ndarray:
        """Of each gate, with all open, measured in eval mode: the running statistics stay as they are."""
        batches = self.feed.data.sampled(self.settings.ranking_batches, RANKING_BATCH, self.settings.seed)
        losses = (self.task.probe(outputs_of(self.student.module, batch), batch) for batch in batches)
        return self._alike(self.gating.importance(losses))

    def _alike(self, scores: np.ndarray) -> np.ndarray:
        """Their mean over all processes, so that all start alike."""
        found = torch.from_numpy(scores).to(self.accelerator.device)
        average(self.accelerator, [found])
        return found.cpu().numpy()

    def _metrics(self, module: nn.Module) -> dict[str, float]:
        average(self.accelerator, list(module.buffers()))
        batches = self.feed.held_out.in_order(2 * self.settings.batch_size)
        return evaluate(self.accelerator, module, self.teacher, self.task, batches)

    def _report(self, losses: list[Tensor], end_of_epoch: bool, left: float) -> None:
        """A line of metrics, and at the end of an epoch its entry in the history."""
        loss = float(torch.stack(losses).mean())
        self.stepper.check(loss, self.step - 1)
        epoch, gating = math.ceil(self.step / self.feed.per_epoch), self.gating
        entry: dict[str, Any] = {
            "step": self.step, "epoch": epoch, "loss": loss, "lr": self.stepper.rate(self.step - 1),
            "reached": gating.reached, "rho": gating.rho(self.step),
            "shares": gating.budget.shares(gating.budget.opened(gating.w)), "frozen": gating.frozen,
            "seconds": round(self.seconds, 3),
        }  # fmt: skip
        if end_of_epoch:
            every = self.settings.evaluate_every
            if self.step == self.feed.steps or (every and epoch % every == 0):
                entry["metrics"] = self._metrics(self.student.evaluated)
        self.reporter.tell(entry, left, end_of_epoch=end_of_epoch)

    def _save(self) -> None:
        average(self.accelerator, list(self.student.module.buffers()))
        if self.reporter.folder is not None:
            state = {
                "step": self.step, "steps": self.feed.steps, "seconds": self.seconds, "gating": self.gating.state(),
                "shrunk": self.student.shrunk is not None, "scaler": self.stepper.scaler.state_dict(),
                "averaged": self.student.average.steps if self.student.average else 0,
                "before": self.reporter.before, "history": self.reporter.history,
            }  # fmt: skip
            self.reporter.folder.save(self.student.tensors() | self.gating.tensors(), state)

    def _laid_out(self, module: fx.GraphModule) -> fx.GraphModule:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        return synchronise(self.accelerator, module.to(self.accelerator.device).to(memory_format=layout))
