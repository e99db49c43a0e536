"""What a training run is asked for, tells on its way, and gives back; free of torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import TrainingError
from onnxprune.methods import registry
from onnxprune.training.samples import Data

CHOICES = {
    "by": ("channels", "params", "macs"),
    "optimizer": ("sgd", "adamw", "muon"),
    "schedule": ("cosine", "linear", "step", "one-cycle", "constant"),
    "start": ("auto", "ranked", "given"),
    "ranking": ("gradients", "sensitivity"),
    "precision": ("float32", "bfloat16", "float16"),
    "device": ("auto", "cpu", "cuda"),
}

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are measured on CIFAR-10 nets unless a comment says otherwise.

    `ratio` is the fraction kept of what `by` counts, `limits` further ones by what they count: `{"params": 0.4}`.
    `method` is one of `onnxprune.methods.registry.names()`, with `method_options`: "fisher", "tgl" and "scp" train
    gates and weights together and freeze the gates after the share `ramp` of all steps; "finetune" closes them before
    the first. "auto" is "fisher", which lost least, or as little as any, at half of the MACs (models/README.md); it is
    "tgl", whose gates have a learning rate and start anywhere, where `gate_lr` or `start` "given" is asked for.
    `start` "ranked" opens all gates at ranks of importance, "given" takes the model's own; "auto" is "given" for
    "finetune" on a model with closed gates, else "ranked". `ranking` "gradients" tells importance from the gradients of
    the loss to the gates (Taylor), "sensitivity" from how far the outputs move as each group alone is narrowed.

    `task` is "auto" (the labels' task, with distillation, or distillation alone where there are no labels),
    "classification", "regression", "segmentation", "distillation" or "module:object"; `distill` is the weight of
    distillation from the original model beside the labels' task (None: 0.9 for "auto", else 0). `features` are
    patterns of values inside the model that are distilled too. `validation` is the share of the samples held out for
    the metrics.
    """

    ratio: float = 0.5
    by: str = "channels"
    limits: Mapping[str, float] = field(default_factory=dict)
    method: str = "auto"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    gate_lr: float | None = None  # the method's own default
    start: str = "auto"
    ranking: str = "gradients"
    ramp: float = 1 / 3
    floor_channels: int = 2
    floor_share: float = 0.05
    multiple_of: int | str = "auto"  # what kept counts are rounded to at the freeze, see settle.WIDTHS
    epochs: int = 10
    batch_size: int = 128  # per process
    accumulate: int = 1  # batches per step of the weights
    optimizer: str = "sgd"
    lr: float | None = None  # 0.03 for SGD, 0.001 for AdamW and Muon
    momentum: float = 0.9
    weight_decay: float | None = (
        None  # 1e-4 for SGD, 0.05 for AdamW, 0 for Muon; of no gate, bias, normalisation
    )
    schedule: str = "cosine"
    warmup: float = 0.0  # share of the steps in which the learning rate rises
    clip: float | None = None  # largest norm of the weights' gradient
    ema: float = (
        0.0  # decay of the weights' running mean after the freeze, which is then what is written; 0 for none
    )
    task: str = "auto"
    distill: float | None = None
    temperature: float = 2.0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    augment: str = "none"
    workers: int | None = None  # processes that prepare batches; None for none on a CPU, 4 on a GPU
    validation: float = 0.1
    evaluate_every: int = 1  # epochs; 0 for only before and after
    ranking_batches: int = 64  # of 32 samples
    remeasure_batches: int = 10  # for the BatchNorm statistics at the freeze
    channels_last: bool = True
    precision: str = "float32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    unfold: bool = True  # give models without BatchNorm one for training, see unfolding.py
    shrink: bool = True  # after the freeze, train without the closed channels: the same function, faster
    run_dir: str | None = None
    checkpoint_seconds: float = 300.0
    report_every: int = 10  # steps

    def __post_init__(self) -> None:
        """Raises TrainingError for a value that makes no sense, naming it."""
        if self.method not in (AUTO, *registry.names()):
            raise TrainingError(
                f"method {self.method!r} is unknown: give one of {', '.join(registry.names())}"
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} {getattr(self, name)!r} is unknown: give one of {', '.join(choices)}"
                )
        for name in ("epochs", "batch_size", "accumulate", "report_every", "ranking_batches"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: give 1 or more")
        for name in ("lr", "gate_lr", "clip", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise TrainingError(f"{name} is {value}: give a positive number")
        for name in ("ramp", "floor_share", "momentum", "warmup", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        for by in self.limits:
            if by not in CHOICES["by"] or by == self.by:
                raise TrainingError(
                    f"limit {by!r} is none: beside the ratio of the {self.by} there may be one of "
                    f"{', '.join(other for other in CHOICES['by'] if other != self.by)}"
                )
        if self.multiple_of != "auto" and (isinstance(self.multiple_of, str) or self.multiple_of < 1):
            raise TrainingError(f"multiple_of is {self.multiple_of!r}: give 'auto' or a number from 1 on")
        if self.workers is not None and self.workers < 0:
            raise TrainingError(f"workers is {self.workers}: give 0 or more")
        if self.distill is not None and not 0 <= self.distill <= 1:
            raise TrainingError(f"distill is {self.distill}: give a weight from 0 to 1")

    @property
    def chosen(self) -> str:
        """The method's name, where it is left to us too."""
        if self.method != AUTO:
            return self.method
        return "tgl" if self.gate_lr is not None or self.start == "given" else "fisher"

    @property
    def budget(self) -> dict[str, float]:
        """All limits, the ratio's first."""
        return {self.by: self.ratio, **self.limits}

    @property
    def peak_lr(self) -> float:
        """The weights' highest learning rate."""
        return (
            self.lr if self.lr is not None else {"sgd": 0.03, "adamw": 0.001, "muon": 0.001}[self.optimizer]
        )

    @property
    def decay(self) -> float:
        """The weights' decay."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"sgd": 1e-4, "adamw": 0.05, "muon": 0.0}[self.optimizer]

    @staticmethod
    def of(stored: Mapping[str, Any]) -> "Settings":
        """Settings as `dataclasses.asdict` wrote them; fields this version does not know are an error."""
        unknown = set(stored) - {f.name for f in fields(Settings)}
        if unknown:
            raise TrainingError(f"setting {min(unknown)!r} is unknown: the run was made by another version")
        return Settings(**{**stored, "features": tuple(stored.get("features", ()))})


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step: `reached` is C, `rho` where it should be, `shares` what is open by each limit's
    count, `eta` seconds to go.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metrics: Mapping[str, float]
    reached: float
    rho: float
    shares: Mapping[str, float]
    frozen: bool
    eta: float


Report: TypeAlias = Callable[[Progress], None]
Ranker: TypeAlias = Callable[[Data], NDArray[np.float64]]
"""The importance of every gate, shape (gates,), told from the samples that are trained on."""


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
    shares: Mapping[str, float]
    """The fraction kept by each limit's count."""
    kept: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    epochs: int
    seconds: float
    warnings: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    run_dir: str | None = None
    main: bool = True
    """Whether this is the main process of those that trained."""
