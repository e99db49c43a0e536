"""The gates' side of a run: where they start, how they move and meet the budget, when they freeze."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxprune.groups import Groups
from onnxprune.methods import registry
from onnxprune.methods.method import Gates, Latents, Method, Scores
from onnxprune.methods.taylor import importance
from onnxprune.training.balance import Balance
from onnxprune.training.budget import Budget, ramp
from onnxprune.training.latents import Parameters
from onnxprune.training.repair import repair
from onnxprune.training.settings import Settings

UNIT_COSTS_EVERY = 20  # steps; they change slowly, and a large net takes milliseconds to count


class Gating:
    """The gates of a module in training: `w` is their flat vector, which the module's latents follow."""

    def __init__(self, method: Method, budget: Budget, settings: Settings, steps: int) -> None:
        self.method, self.budget = method, budget
        self.ramp_steps = round(settings.ramp * steps)
        self.frozen = False
        self.balance = Balance(budget)

    def attach(
        self, latents: Parameters, groups: Callable[[], Groups], tensors: Mapping[str, Tensor]
    ) -> None:
        """To the module that trains, whose state is `tensors`. Raises TrainingError where it is not for the method."""
        self.latents, self.w = latents, latents.read()
        self.given = self.start = self.reached
        self.method.attach(
            Gates(
                sizes=dict(zip(self.budget.costs.names, self.budget.costs.sizes, strict=True)),
                project=self._project,
                unit=lambda: self.balance.mixed(self.units),
                fraction=self.budget.fraction,
                miss=lambda opened: torch.as_tensor(self.budget.penalty(opened)),
                groups=cache(groups),
                tensor=tensors.__getitem__,
            )
        )

    @property
    def reached(self) -> float:
        """C now."""
        return self.budget.fraction(self.w)

    def rho(self, step: int) -> float:
        """What C should be after `step` steps."""
        if not self.method.meets:
            return self.budget.target
        return ramp(step, self.ramp_steps, self.budget.target, self.start)

    def open_all(self) -> None:
        self._set(np.ones(len(self.w), np.float32))

    def importance(self, losses: Iterable[Tensor]) -> Scores:
        """Of each gate for `losses`, one a batch, taken in eval mode with all gates open."""
        return importance(losses, self.latents.tensors)

    def begin(self, scores: Scores | None) -> None:
        """Where the gates start, before the first step."""
        self.units = self.budget.unit_costs(self.w)  # per limit and gate
        start = self.method.begin(scores)
        if start is not None:
            self._set(start)
            self.start = 1.0
        if not self.method.trains:
            self.freeze(meet=start is not None)
        elif self.method.meets and self.ramp_steps == 0:
            self.freeze(meet=True)

    def move(self, step: int) -> None:
        """The gates' part of step number `step` (from 0), after which they may be frozen."""
        if step % UNIT_COSTS_EVERY == 0:
            self.units = self.budget.unit_costs(self.w)
        self._set(self.method.step(self.w, self.latents.take_gradients(), self.rho(step + 1)))
        if self.method.meets and step + 1 >= self.ramp_steps:
            self.freeze(meet=True)
        elif self.method.due(self.reached, self.budget.target):
            self.freeze(meet=False)

    def freeze(self, meet: bool) -> None:
        """From here on the gates stay as they are, to `meet` the ratio as near below it as they can be."""
        if meet:
            self._set(repair(self.budget, self.balance.level(self.w)))
        self.frozen = True
        self.latents.freeze()

    def shortfall(self) -> str | None:
        """Why the ratio was missed by more than the budget allows; None where it was not."""
        return self.budget.shortfall(self.w, pulled=not self.method.meets)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the gates."""
        own = {f"method/{name}": tensor for name, tensor in self.method.state().items()}
        return {"w": torch.from_numpy(self.w), "units": torch.from_numpy(self.units), **own}

    def state(self) -> dict[str, Any]:
        """The rest of what it must hold, as JSON."""
        return {"frozen": self.frozen, "start": self.start, "weights": self.balance.weights.tolist()}

    def resume(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up both."""
        self._set(tensors["w"].numpy())
        self.units, self.start = tensors["units"].numpy(), state["start"]
        self.balance.weights = np.asarray(state["weights"])
        prefix = "method/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state["frozen"]:
            self.freeze(meet=False)
        else:
            self.method.resume(own)

    def _project(self, w: Latents, rho: float) -> Latents:
        return self.budget.project(self.balance.tilt(w, rho, self.units), rho)

    def _set(self, w: Latents) -> None:
        self.w = w
        self.latents.write(w)


def method_of(settings: Settings) -> Method:
    """The method a run asks for, with its options."""
    options: dict[str, Any] = dict(settings.method_options)
    if settings.gate_lr is not None:
        options["lr"] = settings.gate_lr
    return registry.make(settings.chosen, options)
