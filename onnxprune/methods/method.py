"""What a trainable method is: how gates get their values from what trains, and which way they move.

The run calls a method in this order:

    method.attach(gates)
    latents = method.begin(scores)                   # before the first step; `resume(state)` in its place
    mask = method.mask(group, w, *operands)          # in every forward pass, per group
    method.loss()                                    # added to the task's loss
    latents = method.step(latents, gradient, rho)    # after each step of the weights

A latent is a gate's number in the file: the gate is open where it is above 0. All latents of a model are one flat
float32 vector, group after group. In evaluation, and once they are frozen, the masks are exactly 0 or 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onnxprune.groups import Groups
from onnxprune.methods.gate import gate

Latents: TypeAlias = NDArray[np.float32]
"""One number a gate, shape (gates,)."""
Scores: TypeAlias = NDArray[np.float64]
"""One number a gate, shape (gates,)."""


@dataclass(frozen=True)
class Gates:
    """The gates of a run, as a method sees them."""

    sizes: Mapping[str, int]
    """The groups in the latents' order, and how many gates each has."""
    project: Callable[[Latents, float], Latents]
    """Latents shifted until the share `rho` of the budget is open, and no more: `Budget.project`."""
    unit: Callable[[], Scores]
    """What closing one more gate of each gate's group saves, relative to the mean over all gates; counted before
    `begin` and again every few steps, with the gates that are open then."""
    fraction: Callable[[Latents], float]
    """The share of the budget that is open."""
    miss: Callable[[Sequence[Tensor]], Tensor]
    """`|ratio - C|^2` for so many open gates per group, scalars that may have gradients."""
    groups: Callable[[], Groups]
    """The channel groups of the model as it was before training."""
    tensor: Callable[[str], Tensor]
    """The tensor that trains under an initializer's name."""


class Method:
    """What a method may say; the defaults leave the gates as they start. A subclass is a dataclass of its options."""

    gates: Gates

    def attach(self, gates: Gates) -> None:
        """Called once, before all else. Raises TrainingError where the model is not one for this method."""
        self.gates = gates

    @property
    def trains(self) -> bool:
        """Whether the gates move in training; else they freeze before the first step."""
        return True

    @property
    def meets(self) -> bool:
        """Whether the gates freeze at the share `ramp` of all steps, and are brought to the ratio there."""
        return True

    @property
    def scored(self) -> bool:
        """Whether `begin` needs scores: some batches forward and backward."""
        return True

    def begin(self, scores: Scores | None) -> Latents | None:
        """Where the latents start; None where they stay as they are in the file.

        `scores` is an importance per gate: over batches the sum of the loss's squared gradient to the gate. It is
        None where the file's own gates are to be the start.
        """
        raise NotImplementedError

    def operands(self, group: str) -> tuple[str, ...]:
        """Names of the initializers that `mask` reads beside the group's latents."""
        return ()

    def mask(self, group: str, w: Tensor, *operands: Tensor) -> Tensor:
        """In training: the factors of a group's channels, shape (size,), from its latents `w`, shape (size,)."""
        return gate(w)

    def loss(self) -> Tensor | None:
        """What is added to the task's loss, a scalar; called after each forward pass while the gates train."""
        return None

    def step(self, w: Latents, gradient: Latents, rho: float) -> Latents:
        """The latents after a step; `gradient` is that of the whole loss, `rho` the share that should be open."""
        return w

    def due(self, reached: float, target: float) -> bool:
        """Whether the gates should freeze now, before the end of the ramp."""
        return False

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the latents."""
        return {}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
