"""Options that several commands share, and their values read."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from onnxprune.errors import DataError, PlanError

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
pixels = options(
    click.option("--mean", help="Per channel, of 0..1 pixels, such as .485,.456,.406 (default: ImageNet's)."),
    click.option("--std", help="As --mean: the standard deviations."),
)
bounds = options(
    click.option("--keep", multiple=True, metavar="PATTERN",
                 help="Groups, tensors, or nodes that make them, whose channels stay, such as 'layer4.*'; the name of "
                 "a weight means the channels that it makes, not those that it reads."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Prune nothing but these; patterns as for --keep."),
    click.option("--multiple-of", default="auto", show_default=True, help="Kept counts are multiples of this."),
    click.option("--min-channels", type=int, default=1, show_default=True, help="The least a group may keep."),
    click.option("--scope", type=click.Choice(["layer", "global"]), default="layer", show_default=True,
                 help="The same fraction of every group, or the best channels wherever they are."),
)  # fmt: skip


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
