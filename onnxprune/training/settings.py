"""What a training run is asked for, tells on its way, and gives back; free of torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import onnx

from onnxprune.errors import TrainingError

CHOICES = {
    "method": ("tgl", "finetune"),
    "budget": ("projection", "penalty"),
    "start": ("ranked", "given"),
    "gate_slope": ("one", "sigmoid", "tanh"),
    "augment": ("none", "crop-flip"),
    "precision": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are measured on CIFAR-10 nets unless a comment says otherwise.

    `ratio` is the fraction kept of what `by` counts. `method` "tgl" trains gates and weights together and
    freezes the gates after the share `ramp` of all steps; "finetune" leaves the gates as they are. `budget`
    "projection" meets the ratio; "penalty" is the paper's form, `penalty * |ratio - C|^2`, which may miss
    it. `start` "ranked" opens all gates at importance ranks, "given" takes the model's own.

    `task` is "auto" (the labels' task, with distillation, or distillation alone where there are no labels),
    "classification", "regression", "distillation" or "module:function"; `distill` is the weight of
    distillation from the original model beside the labels' task (None: 0.9 for "auto", else 0).
    `validation` is the share of the samples held out for the metrics.
    """

    ratio: float = 0.5
    by: str = "channels"
    method: str = "tgl"
    budget: str = "projection"
    epochs: int = 10
    batch_size: int = 128  # per process
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of weights; not of gates, biases and normalisation
    gate_lr: float = 0.1
    gate_clip: float = 0.1
    gate_slope: str = "one"
    start: str = "ranked"
    ramp: float = 1 / 3
    penalty: float = 1.0
    tolerance: float = 0.01  # of the penalty: gates freeze where |ratio - C| is within it
    floor_channels: int = 2
    floor_share: float = 0.05
    multiple_of: int | str = "auto"  # what kept counts are rounded to at the freeze, see settle.WIDTHS
    task: str = "auto"
    distill: float | None = None
    temperature: float = 2.0
    augment: str = "none"
    validation: float = 0.1
    evaluate_every: int = 1  # epochs; 0 for only before and after
    ranking_batches: int = 64  # of 32 samples
    remeasure_batches: int = 10  # for the BatchNorm statistics at the freeze
    channels_last: bool = True
    precision: str = "float32"
    device: str = "auto"
    seed: int = 0
    unfold: bool = True  # give models without BatchNorm one for training, see unfolding.py
    shrink: bool = True  # after the freeze, train without the closed channels: the same function, faster
    run_dir: str | None = None
    checkpoint_seconds: float = 300.0
    report_every: int = 10  # steps

    def __post_init__(self) -> None:
        """Raises TrainingError for a value that makes no sense, naming it."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} {getattr(self, name)!r} is unknown: give one of {', '.join(choices)}"
                )
        for name in ("epochs", "batch_size", "report_every", "ranking_batches"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: give 1 or more")
        for name in ("lr", "gate_lr", "gate_clip", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise TrainingError(f"{name} is {getattr(self, name)}: give a positive number")
        for name in ("ramp", "floor_share", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.multiple_of != "auto" and (isinstance(self.multiple_of, str) or self.multiple_of < 1):
            raise TrainingError(f"multiple_of is {self.multiple_of!r}: give 'auto' or a number from 1 on")
        if self.distill is not None and not 0 <= self.distill <= 1:
            raise TrainingError(f"distill is {self.distill}: give a weight from 0 to 1")

    @staticmethod
    def of(stored: Mapping[str, Any]) -> "Settings":
        """Settings as `dataclasses.asdict` wrote them; fields this version does not know are an error."""
        unknown = set(stored) - {f.name for f in fields(Settings)}
        if unknown:
            raise TrainingError(f"setting {min(unknown)!r} is unknown: the run was made by another version")
        return Settings(**stored)


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step: `reached` is C, `rho` where it should be, `eta` seconds to go."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metrics: Mapping[str, float]
    reached: float
    rho: float
    frozen: bool
    eta: float


Report: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """A finished run. `model` is the gated model with the weights, statistics and hard gates that were
    evaluated.

    `before` and `after` are the metrics of the original model and of `model` on the held-out samples, the
    task's main metric first; `history` has one entry per epoch.
    """

    model: onnx.ModelProto = field(repr=False)
    asked: float
    by: str
    reached: float
    kept: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    epochs: int
    seconds: float
    warnings: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    run_dir: str | None = None
