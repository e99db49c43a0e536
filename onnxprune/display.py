"""Results as text for people: tables on stdout, progress on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onnxprune.demo import Demo
    from onnxprune.inspection import Inspection
    from onnxprune.slimming import Gated, Slimmed
    from onnxprune.training.settings import Progress, Report
    from onnxprune.training.verb import Trained
    from onnxprune.verify import Verification

MOST = 40
"""Rows of a table of groups; --json has all."""


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns aligned, the first `left` ones to the left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def inspection(result: "Inspection") -> None:
    """Groups with the largest share first, then what is frozen and why."""
    open_groups = sorted((g for g in result.groups if g.prunable), key=lambda g: -g.macs_share)
    click.echo(
        f"{result.model}: {result.macs / 1e6:,.1f} M MACs, {result.params / 1e6:,.2f} M parameters, "
        f"{result.bytes / 2**20:,.1f} MiB; {len(open_groups)} groups of channels can be pruned"
    )
    if open_groups:
        rows = [("group", "channels", "of the MACs", "of the parameters", "lies on")]
        rows += [
            (g.name, str(g.size), f"{g.macs_share:.1%}", f"{g.params_share:.1%}", f"{len(g.members)} axes")
            for g in open_groups[:MOST]
        ]
        click.echo(table(rows))
        if len(open_groups) > MOST:
            click.echo(f"... and {len(open_groups) - MOST} more (--json lists all)")
    if result.frozen:
        click.echo("\nfrozen, and why:")
        click.echo(
            table(
                [
                    ("of the parameters", "because"),
                    *((f"{f.params_share:.1%}", f.because) for f in result.frozen[:MOST]),
                ],
                2,
            )
        )
    if not open_groups:
        click.echo(
            "nothing can be pruned: the reasons above say which ops to replace or export in another way"
        )


def gated(result: "Gated") -> None:
    click.echo(
        f"{result.output}: {result.gates} gates on {result.groups} channel groups; "
        f"all open it differs from the original by {result.max_rel_error:.1e}"
    )


def slimmed(result: "Slimmed") -> None:
    asked = f"asked for {result.asked:g} of the {result.by}, " if result.asked is not None else ""
    kept = ", ".join(f"{name} {share:.3f}" for name, share in result.kept.items())
    click.echo(f"{result.output}: {asked}kept {kept}")
    click.echo(
        f"equal to the gated model within {result.verified.max_rel_error:.1e} "
        f"(allowed {result.verified.tolerance:.0e}) on {result.verified.inputs} inputs{_rounded(result.verified)}; "
        f"{result.seconds:.2f} s"
    )
    for name, because in result.frozen.items():
        click.echo(f"frozen: {name}: {because}")


def verification(result: "Verification") -> None:
    verdict = "equal" if result.equal else "NOT EQUAL"
    click.echo(
        f"{verdict}: max |a - b| / max |a| = {result.max_rel_error:.2e} (allowed {result.tolerance:.0e}) "
        f"on {result.inputs} inputs{_rounded(result)}"
    )


def _rounded(result: "Verification") -> str:
    return f" without rounding, {result.rounded:.1e} with it" if result.rounded is not None else ""


def trained(result: "Trained") -> None:
    click.echo(
        f"{result.output}: kept {result.reached:.3f} of the {result.by} (asked for {result.asked:g}) "
        f"after {result.epochs} epochs, {result.seconds:.0f} s"
    )
    for name, value in result.after.items():
        before = f" (original {result.before[name]:.4f})" if name in result.before else ""
        click.echo(f"{name}: {value:.4f}{before}")


def demo(result: "Demo") -> None:
    click.echo(table([("", "original", "slim", "kept"), *result.rows()]))
    click.echo(f"speed-up {result.speedup:.2f}x (95 % interval {result.low:.2f} to {result.high:.2f}), "
               f"max_rel_error {result.max_rel_error:.1e}, {result.seconds:.0f} s in all")  # fmt: skip
    click.echo(f"models in {result.folder}")


@contextmanager
def training() -> Iterator["Report"]:
    """A live bar on a terminal, a plain line every few seconds otherwise."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _Lines()


class _Lines:
    """One line each ten seconds and at each epoch's end."""

    def __init__(self) -> None:
        self.said = 0.0

    def __call__(self, progress: "Progress") -> None:
        if time.monotonic() - self.said >= 10 or progress.step == progress.steps:
            self.said = time.monotonic()
            click.echo(_line(progress), err=True)


def _line(p: "Progress") -> str:
    metrics = " ".join(f"{name} {value:.4f}" for name, value in p.metrics.items())
    state = "frozen" if p.frozen else f"target {p.rho:.3f}"
    return (
        f"epoch {p.epoch}/{p.epochs} step {p.step}/{p.steps}: loss {p.loss:.4f} {metrics} "
        f"kept {p.reached:.3f} ({state}), {p.eta:.0f} s to go"
    )


@contextmanager
def _bar() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda p: bar.update(task, completed=p.step / p.steps, description=_line(p))
