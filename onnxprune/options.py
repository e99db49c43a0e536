"""Options that several commands share, and their values read."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from onnxprune.calibration import Calibration
from onnxprune.choose import SCOPES
from onnxprune.errors import DataError, PlanError
from onnxprune.methods import registry
from onnxprune.training.preprocessing import LAYOUTS, Preprocessing
from onnxprune.training.settings import AUTO, CHOICES, Settings

Command = Callable[..., None]


def options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        return functools.reduce(lambda c, option: option(c), reversed(options), command)

    return apply


PATH = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
output = click.option("-o", "--output", type=PATH, help="Where to write the model.")
force = click.option("--force", is_flag=True, help="Overwrite an existing output.")
seed = click.option("--seed", type=int, default=0, show_default=True, help="Makes a run repeatable.")
provider = click.option(
    "--provider", default="cpu", show_default=True, help="onnxruntime provider: cpu or cuda."
)
by = click.option("--by", type=click.Choice(["channels", "params", "macs"]), default="channels", show_default=True,
                   help="What the ratio counts.")  # fmt: skip
timed = options(
    click.option("--by", type=click.Choice(["channels", "params", "macs", "latency"]), default="channels",
                 show_default=True, help="What the ratio counts; latency is measured in onnxruntime on this machine."),
    provider,
    click.option("--threads", type=int, help="Inside an op, for --by latency (default: onnxruntime's choice)."),
    click.option("--batch", type=int, help="Samples a run, for --by latency (default: 1, or what the model takes)."),
)  # fmt: skip
pixels = options(
    click.option("--mean", help="Per channel, of 0..1 pixels, such as .485,.456,.406 (default: ImageNet's)."),
    click.option("--std", help="As --mean: the standard deviations."),
    click.option("--size", type=int, help="Images are resized and cropped to this (default: the model's input's)."),
    click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True,
                 help="Of the model's input (default: read off it)."),
)  # fmt: skip
samples = click.option("--samples", type=int, default=1024, show_default=True,
                       help="How many of --data are drawn at random.")  # fmt: skip
bounds = options(
    click.option("--keep", multiple=True, metavar="PATTERN",
                 help="Groups, tensors, or nodes that make them, whose channels stay, such as 'layer4.*'; the name of "
                 "a weight means the channels that it makes, not those that it reads."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Prune nothing but these; patterns as for --keep."),
    click.option("--multiple-of", default="auto", show_default=True, help="Kept counts are multiples of this."),
    click.option("--min-channels", type=int, default=1, show_default=True, help="The least a group may keep."),
    click.option("--scope", type=click.Choice([AUTO, *SCOPES]), default=AUTO, show_default=True,
                 help="The same fraction of every group; the best channels wherever they are; or those that the "
                 "outputs miss least, measured on --data (auto: this with --data, else layer)."),
)  # fmt: skip


def setting(name: str, says: str, **more: Any) -> Callable[[Command], Command]:
    """The option of a field of Settings, with its type, choices and default."""
    known = {f.name: f for f in fields(Settings)}[name]
    default = None if known.default is MISSING else known.default
    kind: Any = (
        click.Choice(CHOICES[name]) if name in CHOICES else type(default) if default is not None else None
    )
    if kind is bool:
        return click.option(f"--{name}", is_flag=True, default=default, help=says, **more)
    more = {"type": kind, "show_default": default is not None, **more}
    return click.option(f"--{name.replace('_', '-')}", default=default, help=says, **more)


training = options(
    setting("ratio", "The fraction to keep."),
    by,
    click.option("--limit", "limits", multiple=True, metavar="BY=RATIO",
                 help="A further limit that holds at the same time, such as params=0.4; repeatable."),
    setting("method", "How it is learnt what stays; auto: fisher, or tgl where --gate-lr or --start given asks for it.",
            type=click.Choice([AUTO, *registry.names()])),
    click.option("--method-option", "method_options", multiple=True, metavar="NAME=VALUE",
                 help="An option of the method, such as tau=0.5 of scp; repeatable."),
    setting("gate_lr", "Learning rate of the gates (default: the method's).", type=float),
    setting("start", "Where gates start: all open, ranked by importance, or as the file has them."),
    setting("ranking", "Importance by the loss's gradients, or by how far outputs move as a group is narrowed."),
    setting("ramp", "Share of the steps after which the gates are frozen at the ratio."),
    click.option("--multiple-of", default="auto", show_default=True, help="Kept counts are multiples of this."),
    setting("epochs", "Passes over the data."),
    setting("batch_size", "Samples a batch, in each process."),
    setting("accumulate", "Batches per step of the weights."),
    setting("optimizer", "Of the weights; muon (for matrices, adamw for the rest) goes by each weight's own scale."),
    setting("lr", "Of the weights, at its highest (default: 0.03 for sgd, 0.001 for adamw and muon).", type=float),
    setting("momentum", "Of sgd."),
    setting("weight_decay", "Of the weights (default: 1e-4 for sgd, 0.05 for adamw, 0 for muon).", type=float),
    setting("schedule", "How the learning rate goes."),
    setting("warmup", "Share of the steps in which the learning rate rises."),
    setting("clip", "Largest norm of the weights' gradient (default: any).", type=float),
    setting("ema", "Decay of the weights' running mean, which then is written, such as 0.999; 0 for none."),
    setting("task", "auto, classification, segmentation, regression, distillation, or your own module:object."),
    setting("distill", "Weight of distillation from the original model beside labels (default: 0.9 for auto, else 0).",
            type=float),
    setting("temperature", "Of distillation."),
    click.option("--feature", "features", multiple=True, metavar="PATTERN",
                 help="Values inside the model that are distilled too, by name; repeatable."),
    setting("feature_weight", "Of these beside the rest of the loss."),
    setting("augment", "Some of crop, flip, resized-crop, randaugment, mixup, cutmix, with commas between them."),
    setting("workers", "Processes that read and augment samples (default: none on a CPU, 4 on a GPU).", type=int),
    setting("validation", "Share of the samples held out for the metrics, where there is no --val."),
    setting("precision", "Of the training steps; the weights stay float32."),
    setting("compile", "Compile the training step (torch.compile)."),
    setting("device", "Where to train; under torchrun, one process per device."),
)  # fmt: skip


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`("params=0.4",)` as {"params": "0.4"}. Raises PlanError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise PlanError(f"{option} {text}: is no pair; write it as NAME=VALUE")
        found[name] = value
    return found


def ratios(texts: Iterable[str]) -> dict[str, float]:
    """`("params=0.4",)` as {"params": 0.4}. Raises PlanError."""
    try:
        return {name: float(value) for name, value in pairs(texts, "--limit").items()}
    except ValueError as error:
        raise PlanError(f"--limit: {error}; write it as params=0.4") from None


def numbers(text: str | None, option: str) -> list[float] | None:
    """`.485,.456` as [0.485, 0.456]. Raises DataError."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"{option} {text}: is no list of numbers; write it as .485,.456,.406") from None


def multiple(text: str) -> int | str:
    """`auto`, or a number. Raises PlanError."""
    if text != "auto" and not text.isdigit():
        raise PlanError(f"--multiple-of {text}: is neither 'auto' nor a number from 1 on; give one of these")
    return text if text == "auto" else int(text)


def sizes(texts: Iterable[str]) -> dict[str, int]:
    """`("sequence=128",)` as {"sequence": 128}. Raises DataError."""
    found = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise DataError(f"--dim {text}: is no size of an axis; write it as NAME=128")
        found[name] = int(size)
    return found


def preprocessing(mean: str | None, std: str | None, size: int | None, layout: str) -> Preprocessing:
    """What is done to images. Raises DataError."""
    return Preprocessing(numbers(mean, "--mean"), numbers(std, "--std"), size, layout)


def measured(
    sensitivity: bool, picture: Path | None, *, data: str | None, samples: int,
    mean: str | None, std: str | None, size: int | None, layout: str,
) -> Calibration | None:  # fmt: skip
    """The inputs that `inspect` measures on, where it is asked to. Raises DataError."""
    if not sensitivity:
        for option, value in (("--data", data), ("--picture", picture)):
            if value is not None:
                raise DataError(f"{option}: is for measuring; add --sensitivity, or leave it out")
        return None
    if data is None:
        raise DataError("--sensitivity: runs the model on inputs; give some with --data")
    return Calibration(data, preprocessing(mean, std, size, layout), samples)


def settings(given: Mapping[str, Any]) -> Settings:
    """What was typed for `train`. Raises TrainingError and PlanError."""
    return Settings(
        **{
            **given,
            "limits": ratios(given["limits"]),
            "method_options": pairs(given["method_options"], "--method-option"),
            "multiple_of": multiple(given["multiple_of"]),
        }
    )
