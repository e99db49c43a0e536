"""SCP: operation-aware soft channel pruning (Kang, Han; ICML 2020, arXiv 2007.03938).

From the paper: whether a channel is dead is asked of BatchNormalization and ReLU together. With BatchNormalization's
output taken as normal of mean beta and deviation |gamma|, ReLU silences it with probability
Phi = (1 + erf(-beta / (|gamma| sqrt 2))) / 2; a channel goes where Phi >= 1 - delta. In training the decision is
relaxed with a logistic function and Gumbel-Softmax noise at temperature tau, and a sparsity loss on a confidence bound
of the activation pushes channels to silence. delta 0.05 and tau 0.5 are the paper's.

Choices of this project: a gate's latent is logit(1 - Phi) - logit(delta), above 0 exactly where the rule keeps the
channel (1 - Phi itself as the probability to keep destroys a trained net, whose median Phi is 0.5 and more); where
several BatchNormalizations see a channel, the one in which it is most alive decides; only the channels that the budget
would close next are pushed, in the order of importance per cost and of life; the push grows while the ratio's ramp is
missed; at the freeze the gates become hard, so that the model that is written is the one that was evaluated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.gates import PREFIX
from onnxprune.methods.method import Gates, Latents, Method, Scores
from onnxprune.methods.taylor import ranked_start
from onnxprune.norms import Norm, norms

STEEPEST = 6.0
"""Bound of beta / |gamma|: further out the gradient of Phi is lost in float32."""
LIVELY = 5.0
"""The latent of a channel that fires on 9 inputs in 10: much further up none is more alive."""
ALIVE = 20.0
"""Latent of a channel that no BatchNormalization sees: it stays open until all others are closed."""


@dataclass(frozen=True)
class _Seen:
    """Channels of a group within one BatchNormalization, on the training device."""

    scale: str
    bias: str
    channels: Tensor
    entries: Tensor

    @staticmethod
    def of(norm: Norm, gates: Gates) -> "_Seen":
        device = gates.tensor(norm.scale).device
        channels, entries = (torch.from_numpy(i).to(device) for i in (norm.channels, norm.entries))
        return _Seen(norm.scale, norm.bias, channels, entries)


@dataclass
class Scp(Method):
    """`push` is the sparsity loss's weight per pushed channel at the start; `gain` by how much of the missed ratio it
    grows in a step; `life` how far, beside ranks of importance from -0.09 to 0.09, a lively channel is from a dead one.
    """

    delta: float = 0.05
    tau: float = 0.5
    push: float = 0.01
    gain: float = 0.01
    life: float = 0.03

    def __post_init__(self) -> None:
        """Raises TrainingError for an option that makes no sense, naming it."""
        if not 0 < self.delta < 0.5:
            raise TrainingError(f"delta is {self.delta}: give a probability above 0 and below 0.5")
        for name in ("tau", "push", "gain"):
            if not 0 < getattr(self, name) < float("inf"):
                raise TrainingError(f"{name} of scp is {getattr(self, name)}: give a positive number")
        self.keeps = math.log(self.delta / (1 - self.delta))
        self.bound = NormalDist().inv_cdf(1 - self.delta)
        self.ranks: Latents = np.zeros(0, np.float32)
        self.pushed: dict[str, Tensor] = {}

    def attach(self, gates: Gates) -> None:
        super().attach(gates)
        found = norms(gates.groups())
        self.seen = {
            group: tuple(_Seen.of(norm, gates) for norm in found.get(group, ())) for group in gates.sizes
        }
        if not any(self.seen.values()):
            raise TrainingError(
                "method scp asks BatchNormalization which channels are dead, and none is on any channel group: "
                "use the method tgl"
            )

    def operands(self, group: str) -> tuple[str, ...]:
        return tuple(name for seen in self.seen[group] for name in (seen.scale, seen.bias))

    def begin(self, scores: Scores | None) -> Latents | None:
        if scores is None:
            raise TrainingError("method scp reads its gates off BatchNormalization: leave out start='given'")
        self.ranks = ranked_start(scores, self.gates.unit())
        return self._alive()

    def mask(self, group: str, w: Tensor, *operands: Tensor) -> Tensor:
        """Binary concrete variables: sigmoid((latent + logistic noise) / tau), one draw per channel and batch."""
        latent = self.latent(group, operands)
        noise = torch.logit(torch.rand_like(latent), eps=1e-6)
        return torch.sigmoid((latent + noise) / self.tau).to(w.dtype)

    def latent(self, group: str, operands: Sequence[Tensor]) -> Tensor:
        """logit(1 - Phi) - logit(delta) of a group's channels, shape (size,): above 0 where Phi < 1 - delta."""
        size = self.gates.sizes[group]
        if not operands:
            return torch.full((size,), ALIVE, device=self.gates.tensor(PREFIX + group).device)
        ratios = [
            (bias.float()[seen.entries] / scale.float()[seen.entries].abs().clamp_min(1e-8))
            for seen, scale, bias in zip(self.seen[group], operands[::2], operands[1::2], strict=True)
        ]
        ratio = torch.cat(ratios).clamp(-STEEPEST, STEEPEST)
        logits = torch.special.log_ndtr(ratio) - torch.special.log_ndtr(-ratio) - self.keeps
        channels = torch.cat([seen.channels for seen in self.seen[group]])
        most = logits.new_full((size,), -math.inf).scatter_reduce(0, channels, logits, "amax")
        return torch.where(most == -math.inf, ALIVE, most)

    def loss(self) -> Tensor | None:
        """The upper confidence bound beta + z |gamma| of each pushed channel's activation, where it is above 0."""
        total: Tensor | None = None
        for group, pushed in self.pushed.items():
            for seen in self.seen[group]:
                scale, bias = (self.gates.tensor(name)[seen.entries] for name in (seen.scale, seen.bias))
                bounds = (bias + self.bound * scale.abs()).clamp_min(0)
                part = (bounds * pushed[seen.channels]).sum()
                total = part if total is None else total + part
        return None if total is None else self.push * total

    def step(self, w: Latents, gradient: Latents, rho: float) -> Latents:
        w = self._alive()
        self.push = min(max(self.push + self.gain * (self.gates.fraction(w) - rho), 1e-4), 1.0)
        order = self.ranks + np.float32(self.life) * np.tanh(w / LIVELY)
        self._push(self.gates.project(order, rho) <= 0)
        return w

    def _alive(self) -> Latents:
        """All latents, as BatchNormalization stands."""
        with torch.no_grad():
            each = [
                self.latent(group, [self.gates.tensor(name) for name in self.operands(group)]).cpu().numpy()
                for group in self.gates.sizes
            ]
        return np.concatenate(each).astype(np.float32)

    def _push(self, which: np.ndarray) -> None:
        sizes = list(self.gates.sizes.values())
        parts = np.split(which, np.cumsum(sizes)[:-1])
        self.pushed = {
            group: torch.from_numpy(part.astype(np.float32)).to(self.gates.tensor(PREFIX + group).device)
            for group, part in zip(self.gates.sizes, parts, strict=True)
            if part.any() and self.seen[group]
        }

    def state(self) -> dict[str, Tensor]:
        pushed = [self.pushed.get(g, torch.zeros(n)).cpu() for g, n in self.gates.sizes.items()]
        return {"ranks": torch.from_numpy(self.ranks), "push": torch.tensor(self.push, dtype=torch.float64),
                "pushed": torch.cat(pushed)}  # fmt: skip

    def resume(self, state: Mapping[str, Tensor]) -> None:
        self.ranks, self.push = state["ranks"].numpy(), float(state["push"])
        self._push(state["pushed"].numpy() > 0)
