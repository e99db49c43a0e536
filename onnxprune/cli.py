"""The command line: parse, call one function, print. Results on stdout, everything else on stderr."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from onnxprune import __version__, display, options
from onnxprune import model as files
from onnxprune.calibration import REPAIRS, Calibration, Feeds
from onnxprune.errors import ModelError, OnnxpruneError
from onnxprune.methods.magnitude import CRITERIA
from onnxprune.options import PATH, multiple


class _Clean(click.Group):
    """Turns every failure into one line and exit code 1, unless `--debug` asks for the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OnnxpruneError as error:
            if ctx.params.get("debug"):
                raise
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; nothing was written")
        except MemoryError:
            _fail("not enough memory for this model; close other programs or use a smaller one")
        except Exception as error:  # the contract: no traceback ever reaches a user
            if ctx.params.get("debug"):
                raise
            text = " ".join(str(error).split())[:200]
            _fail(
                f"unexpected {type(error).__name__}: {text}; run with `onnxprune --debug` and report the traceback"
            )


def _fail(text: str) -> None:
    click.echo(f"Error: {' '.join(text.split())}", err=True)
    sys.exit(1)


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.capitalize()}: {' '.join(record.getMessage().split())}", err=True)


@click.group(cls=_Clean, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="onnxprune")
@click.option("--debug", is_flag=True, help="Show tracebacks and detailed logs.")
def main(debug: bool) -> None:
    r"""Prune any trained network given as an ONNX file.

    \b
    onnxprune gate model.onnx          put gates on the channels that belong together
    onnxprune slim --ratio 0.5         cut channels out of the gated model, proven exact
    onnxprune bench model.onnx model.slim.onnx
    """
    log = logging.getLogger("onnxprune")
    log.handlers = [_Log()]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.INFO)


def _print(result: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(result.to_json(), default=_plain))
    else:
        show(result)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _named(path: Path, ending: str) -> Path:
    """`model.onnx` or `model.gated.onnx` as `model<ending>`, in the same folder."""
    stem = path.name.removesuffix(".onnx").removesuffix(".gated")
    return path.with_name(stem + ending)


def _target(output: Path | None, default: Path, force: bool) -> tuple[Path, bool]:
    """Where to write, and whether it may overwrite: the command's own default names always may."""
    return (default, True) if output is None else (output, force)


def _feeds(
    data: str | None, mean: str | None, std: str | None, size: int | None, layout: str
) -> Feeds | None:
    """The inputs to prove a result on, where `--data` gives them."""
    return None if data is None else Feeds(data, options.preprocessing(mean, std, size, layout))


# ---- commands


@main.command()
@click.argument("model", type=PATH)
@click.option("--all", "everything", is_flag=True, help="List every group and every reason, however small.")
@click.option(
    "--sensitivity", is_flag=True, help="Measure how far the outputs move when one group alone is narrowed."
)
@click.option("--data", help="Inputs to measure the sensitivity on; labels are not needed.")
@options.pixels
@click.option(
    "--samples", type=int, default=256, show_default=True, help="So many of the inputs, drawn at random."
)
@click.option("--picture", type=PATH, help="Draw the sensitivity in this .png, .svg or .pdf.")
@options.force
@options.seed
@options.as_json
def inspect(
    model: Path,
    everything: bool,
    sensitivity: bool,
    picture: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """What can be pruned, what not, why and what to do about it, and what it costs."""
    from onnxprune import picture as pictures
    from onnxprune.inspection import inspect as run

    if picture is not None and sensitivity:
        pictures.writable(picture, force=force)
    result = run(model, sensitivity=options.measured(sensitivity, picture, **given), seed=seed)
    if picture is not None:
        pictures.picture(result, picture, force=force)
    _print(result, as_json, lambda found: display.inspection(found, everything=everything))


@main.command()
@click.argument("model", type=PATH)
@options.output
@click.option("--plan", type=PATH, help="Close the gates of what this plan does not keep.")
@options.force
@options.as_json
def gate(model: Path, output: Path | None, plan: Path | None, force: bool, as_json: bool) -> None:
    """Insert gates; the function stays, and the file runs in plain onnxruntime."""
    from onnxprune.slimming import gate as run

    target, force = _target(output, _named(model, ".gated.onnx"), force)
    _print(run(model, target, plan=plan, force=force), as_json, display.gated)


@main.command()
@click.argument("model", type=PATH, required=False)
@click.option(
    "--data", help="Training samples: .npz, .npy, a folder of images, Parquet, tar shards, module:function."
)
@click.option("--val", help="Samples for the metrics (default: a held-out share of --data).")
@click.option("--teacher", type=PATH, help="The original to learn from (default: MODEL with its gates open).")
@options.training
@options.pixels
@options.output
@click.option("--run-dir", help="Checkpoints, metrics, TensorBoard events and config of the run.")
@click.option(
    "--resume", type=PATH, metavar="DIR", help="Continue the interrupted run in DIR; nothing else is needed."
)
@options.force
@options.seed
@options.as_json
def train(
    model: Path | None,
    data: str | None,
    val: str | None,
    teacher: Path | None,
    output: Path | None,
    resume: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train gates and weights together until RATIO is kept, then the weights alone.

    Without labels in the data the original model is the teacher. Writes a gated model back.
    """
    from onnxprune.training.processes import leave
    from onnxprune.training.verb import Request
    from onnxprune.training.verb import train as run

    if resume is not None:
        request, settings = Request.of(resume)
        target, force = Path(request.output) if request.output else None, True
    else:
        if model is None or data is None:
            raise click.UsageError("give MODEL and --data, or --resume DIR")
        asked = options.preprocessing(*(given.pop(name) for name in ("mean", "std", "size", "layout")))
        settings = options.settings(given)
        target, force = _target(output, _named(model, ".gated.onnx"), force)
        request = Request(str(model), data, val, asked, teacher=str(teacher) if teacher else None)
    with display.training() as progress:
        result = run(
            request.model, request.data, target, settings=settings, validation=request.validation,
            teacher=request.teacher, preprocessing=request.preprocessing, progress=progress,
            resume=resume is not None, force=force,
        )  # fmt: skip
    if result.main:
        _print(result, as_json, display.trained)
    leave()


@main.command()
@click.argument("model", type=PATH, required=False)
@click.option("--ratio", type=float, help="The fraction to keep.")
@options.timed
@click.option(
    "--criterion",
    default="auto",
    show_default=True,
    help=f"How channels are ranked: {', '.join(CRITERIA)} (norms of weights, their distances, BatchNorm's scales); on "
    "--data also reconstruction, wanda, taylor, fisher (auto: reconstruction with --data, else l2).",
)
@options.bounds
@click.option(
    "--drop-branches/--keep-branches",
    default=None,
    help="Whether branches that a residual goes past may go altogether (default: with --scope sensitivity).",
)
@click.option("--plan", type=PATH, help="Keep what this plan says; it fits every export of its network.")
@click.option("--save-plan", type=PATH, help="Write the decisions as JSON.")
@click.option("--save-gated", type=PATH, help="Write the gated counterpart of the slim model.")
@click.option(
    "--data", help="Unlabelled inputs to choose channels and repair weights by, and to prove the result on."
)
@options.samples
@click.option(
    "--repair",
    type=click.Choice(["auto", *REPAIRS]),
    default="auto",
    show_default=True,
    help="What to fit of what stays, so that ops make of --data what they made: weights, or mean and variance of each "
    "channel, or the mean alone (auto: weights, where channels are chosen by --data).",
)
@click.option(
    "--distill",
    type=int,
    metavar="EPOCHS",
    help="Then train them towards the model's outputs, so many times over the samples (default: 1 to 3 minutes).",
)
@options.pixels
@options.output
@options.force
@options.seed
@options.as_json
def slim(
    model: Path | None,
    ratio: float | None,
    by: str,
    provider: str,
    threads: int | None,
    batch: int | None,
    criterion: str,
    keep: tuple[str, ...],
    only: tuple[str, ...],
    multiple_of: str,
    min_channels: int,
    scope: str,
    drop_branches: bool | None,
    plan: Path | None,
    save_plan: Path | None,
    save_gated: Path | None,
    data: str | None,
    samples: int,
    repair: str,
    distill: int | None,
    mean: str | None,
    std: str | None,
    size: int | None,
    layout: str,
    output: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Remove channels; the result is proven equal to its gated counterpart before it is written.

    Without MODEL, the one *.gated.onnx of this folder.
    """
    from onnxprune.slimming import slim as run

    model = _the_gated_one() if model is None else model
    target, force = _target(output, _named(model, ".slim.onnx"), force)
    pixels = options.preprocessing(mean, std, size, layout)
    result = run(
        model, target, ratio=ratio, by=by, criterion=criterion, keep=keep, only=only,
        multiple_of=multiple(multiple_of),
        min_channels=min_channels, scope=scope, drop_branches=drop_branches, plan=plan,
        calibration=None if data is None else Calibration(data, pixels, samples), repair=repair, distill=distill,
        provider=provider, threads=threads, batch=batch,
        save_plan=save_plan, save_gated=save_gated, force=force, seed=seed,
    )  # fmt: skip
    _print(result, as_json, display.slimmed)


def _the_gated_one() -> Path:
    found = sorted(Path().glob("*.gated.onnx"))
    if len(found) != 1:
        what = f"several gated models ({', '.join(map(str, found))})" if found else "no *.gated.onnx"
        raise ModelError(f"{Path.cwd()}: holds {what}; give the model: onnxprune slim MODEL")
    return found[0]


@main.command()
@click.argument("gated", type=PATH)
@click.argument("slim", type=PATH)
@click.option("--data", help="Inputs to compare on (default: random ones).")
@options.pixels
@click.option("--tolerance", type=float, help="Largest max |a - b| / max |a| (default: 1e-5 for float32).")
@options.provider
@options.seed
@options.as_json
def verify(
    gated: Path,
    slim: Path,
    data: str | None,
    mean: str | None,
    std: str | None,
    size: int | None,
    layout: str,
    tolerance: float | None,
    provider: str,
    seed: int,
    as_json: bool,
) -> None:
    """Prove that two models compute the same on the same inputs; exit 1 where they do not."""
    from onnxprune.verify import verify as run

    make = _feeds(data, mean, std, size, layout)
    feeds = make(files.to_proto(files.load(gated))) if make else None
    result = run(gated, slim, feeds=feeds, tolerance=tolerance, provider=provider, seed=seed)
    _print(result, as_json, display.verification)
    if not result.equal:
        sys.exit(1)


@main.command()
@click.argument("models", type=PATH, nargs=-1, required=True)
@options.provider
@click.option("--threads", type=int, help="Threads inside one op (default: onnxruntime's choice).")
@click.option("--batch", type=int, help="Samples a run.")
@click.option("--runs", type=int, help="Rounds; each runs every model once.")
@click.option("--seconds", type=float, help="Rounds for so long (default: 5).")
@click.option("--warmup", type=int, default=5, show_default=True)
@click.option(
    "--dim", multiple=True, metavar="AXIS=SIZE", help="Size of another open axis, by its name in the file."
)
@click.option("--baseline", type=PATH, help="An earlier bench --json to compare the speed-up ratios with.")
@click.option(
    "--max-regression", default="5%", show_default=True, help="What a ratio may lose against the baseline."
)
@click.option("--min-speedup", type=float, help="The least speed-up over the first model.")
@options.seed
@options.as_json
def bench(
    models: tuple[Path, ...],
    provider: str,
    threads: int | None,
    batch: int | None,
    runs: int | None,
    seconds: float | None,
    warmup: int,
    dim: tuple[str, ...],
    baseline: Path | None,
    max_regression: str,
    min_speedup: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Latency in onnxruntime, the models interleaved run by run; exit 1 where a bound is missed."""
    from onnxprune.bench import bench as run
    from onnxprune.targets import check

    result = run(
        models, provider=provider, threads=threads, batch=batch, runs=runs, seconds=seconds, warmup=warmup, seed=seed,
        dynamic=options.sizes(dim),
    )  # fmt: skip
    _print(result, as_json, lambda measured: click.echo(measured.table()))
    check(result, min_speedup=min_speedup, baseline=baseline, max_regression=max_regression)


@main.command()
@click.option(
    "-o", "--output", "folder", type=PATH, help="Keep the models in this folder (default: a temporary one)."
)
@click.option("--ratio", type=float, default=0.3, show_default=True, help="The fraction of the MACs to keep.")
@click.option("--epochs", type=int, default=60, show_default=True)
@options.seed
@options.as_json
def demo(folder: Path | None, ratio: float, epochs: int, seed: int, as_json: bool) -> None:
    """The whole way on the built-in model and data: gate, train, slim, verify, bench."""
    from onnxprune.demo import demo as run

    with display.training() as progress:
        result = run(folder, ratio=ratio, epochs=epochs, seed=seed, progress=progress)
    _print(result, as_json, display.demo)
