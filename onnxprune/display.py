"""Results as text for people: tables on stdout, progress on stderr."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from onnxprune.widths import nearest, price

if TYPE_CHECKING:
    from onnxprune.demo import Demo
    from onnxprune.inspection import GroupFacts, Inspection, Lock
    from onnxprune.slimming import Gated, Slimmed
    from onnxprune.training.settings import Progress, Report
    from onnxprune.training.verb import Trained
    from onnxprune.verify import Verification
    from onnxprune.widths import Measured, Width

MOST = 20
"""Rows of a table of groups; --all shows the rest."""
FEW = 10
"""Rows of a table of reasons."""
PARTS = {"3/4": 0.75, "1/2": 0.5, "1/4": 0.25}
"""Columns of the sensitivity: shares of a group's channels."""
WIDTH = 140
"""Columns of a table that is not on a terminal."""


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


def inspection(result: "Inspection", *, everything: bool = False) -> None:
    """The model in three lines, the groups with the largest share first, then what is frozen, why, and what to do."""
    groups = sorted(
        (g for g in result.groups if g.prunable), key=lambda g: -max(g.macs_share, g.params_share)
    )
    click.echo(
        f"{result.model}: {result.macs / 1e6:,.1f} M MACs, {result.params / 1e6:,.2f} M parameters, "
        f"{result.bytes / 2**20:,.1f} MiB"
    )
    if groups:
        part, half = result.prunable, result.at_half
        click.echo(
            f"{len(groups)} group{'s' * (len(groups) > 1)} of channels can be pruned: {part.channels:,} channels "
            f"that have a part in {_percent(part.macs)} of the MACs and {_percent(part.params)} of the parameters"
        )
        click.echo(
            f"half of each group's channels would keep {half.macs:.2f} of the MACs and {half.params:.2f} of the "
            "parameters\n"
        )
        if result.measured is not None:
            _measured(result.measured)
            groups.sort(key=lambda g: price(g.sensitivity))
        _groups(groups, everything)
    if result.frozen:
        click.echo("\nfrozen, and why:")
        _frozen(result.frozen, everything)
    if not groups:
        click.echo("nothing can be pruned: the reasons above say what to change")


def _groups(groups: Sequence["GroupFacts"], everything: bool) -> None:
    shown = groups if everything else groups[:MOST]
    measured = any(g.sensitivity for g in shown)
    rows = [
        (g.name if everything else _short(g.name), f"{g.size:,}", _percent(g.macs_share), _percent(g.params_share),
         *(_moved(g.sensitivity) if measured else ()),
         str(len({m.tensor for m in g.members})), _some(g.made_by), _some(g.read_by))
        for g in shown
    ]  # fmt: skip
    told = (*PARTS, "per 1%") if measured else ()
    sides = dict.fromkeys(("channels", "MACs", "params", *told, "tensors"), "right")
    names = ("group", *sides, "made by", "read by")
    _rich_table([(name, sides.get(name, "left")) for name in names], rows, ("read by", "made by", "tensors"))
    rest = groups[len(shown) :]
    if rest:
        most = max(max(g.macs_share, g.params_share) for g in rest)
        click.echo(
            f"... and {len(rest)} more groups, {sum(g.size for g in rest):,} channels, each with a part in at most "
            f"{_percent(most)}; --all lists them"
        )


def _measured(measured: "Measured") -> None:
    """What the numbers of the sensitivity are."""
    click.echo(
        "3/4, 1/2, 1/4: how far the outputs move when a group alone keeps so much and what reads it makes up for the\n"
        f"rest: {measured.unit}, on {measured.inputs} inputs;\n"
        "per 1%: the same at 1/2, for each 1 % of the MACs that it saves; the cheapest groups first\n"
    )


def _moved(widths: Sequence["Width"]) -> tuple[str, ...]:
    """The discrepancy at each of PARTS, and per 1 % of the MACs."""
    found = [nearest(widths, part) for part in PARTS.values()]
    cost = price(widths)
    return *("-" if width is None else _compact(width.discrepancy) for width in found), (
        _compact(cost) if isfinite(cost) else "-"
    )


def _compact(number: float) -> str:
    return "<1e-6" if 0 < number < 1e-6 else f"{number:.3g}"


def _frozen(locks: Sequence["Lock"], everything: bool) -> None:
    """Reasons that differ by the node alone are told once."""
    alike: dict[tuple[str, str], list[Lock]] = {}
    for lock in locks:
        text = lock.because if everything else re.sub(r"^(\w+) '.*': ", r"\1: ", lock.because)
        alike.setdefault((text, lock.advice), []).append(lock)
    shares = {kind: min(sum(lock.params_share for lock in same), 1.0) for kind, same in alike.items()}
    told = sorted(alike, key=lambda kind: -shares[kind])
    shown = told if everything else told[:FEW]
    rows = [(_percent(shares[kind]), _because(kind[0], alike[kind]), kind[1]) for kind in shown]
    _rich_table([("of params", "right"), ("because", "left"), ("what to do", "left")], rows)
    rest = told[len(shown) :]
    if rest:
        click.echo(f"... and {len(rest)} more kinds of reasons, each for {_percent(shares[rest[0]])} of the parameters "
                   "or less; --all lists them")  # fmt: skip


def _because(text: str, locks: Sequence["Lock"]) -> str:
    """The reason of one node, or of several."""
    if len(locks) == 1:
        return locks[0].because
    node = locks[0].because.partition("'")[2].rpartition("': ")[0]
    return f"{text} ({len(locks)} nodes, such as {_short(node)})"


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _some(names: Sequence[str]) -> str:
    """The first name, and how many more."""
    first = _short(names[0], 32) if names else "-"
    return f"{first} +{len(names) - 1}" if len(names) > 1 else first


def _short(name: str, most: int = 48) -> str:
    """A name by its end, where exporters differ between layers."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _rich_table(
    columns: Sequence[tuple[str, Any]], rows: Sequence[Sequence[str]], dropped: Sequence[str] = ()
) -> None:
    """A table as wide as the terminal: without the `dropped` columns, in this order, where they find no room; texts are
    wrapped.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    wanted = [max(len(name), *(len(row[k]) for row in rows)) + 3 for k, (name, _) in enumerate(columns)]
    shown = list(range(len(columns)))
    for name in dropped:
        if sum(wanted[k] for k in shown) - 3 > console.width:
            shown = [k for k in shown if columns[k][0] != name]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for k in shown:
        name, side = columns[k]
        made.add_column(name, justify=side, overflow="fold", no_wrap=side == "right")
    for row in rows:
        made.add_row(*(Text(row[k]) for k in shown))
    with console.capture() as drawn:
        console.print(made)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


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
        f"(allowed {result.verified.tolerance:.0e}) on {result.verified.inputs} inputs{_compared(result.verified)}; "
        f"{result.seconds:.2f} s"
    )
    if result.recovery:
        told = ", ".join(f"{how} {value:.3g}" for how, value in result.recovery.items())
        click.echo(f"how far from the original on held-out inputs: {told}")
    for name, because in result.frozen.items():
        click.echo(f"frozen: {name}: {because}")


def verification(result: "Verification") -> None:
    verdict = "equal" if result.equal else "NOT EQUAL"
    click.echo(
        f"{verdict}: max |a - b| / max |a| = {result.max_rel_error:.2e} (allowed {result.tolerance:.0e}) "
        f"on {result.inputs} inputs{_compared(result)}"
    )


def _compared(result: "Verification") -> str:
    """On what the models were compared, where it is not all that they do."""
    told = f" without rounding, {result.rounded:.1e} with it" if result.rounded is not None else ""
    if result.undecided is not None:
        told += f", given the same decisions (ties may go either way: {result.undecided:.1e} with their own)"
    if result.single is not None:
        told += f", in double precision ({result.single:.1e} in single, which is rounding)"
    return told


def trained(result: "Trained") -> None:
    click.echo(
        f"{result.output}: kept {result.reached:.3f} of the {result.by} (asked for {result.asked:g}) "
        f"after {result.epochs} epochs, {result.seconds:.0f} s"
    )
    click.echo("kept " + ", ".join(f"{by} {share:.3f}" for by, share in result.kept.items()))
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
    kept = ", ".join(f"{by} {share:.3f}" for by, share in p.shares.items())
    return (
        f"epoch {p.epoch}/{p.epochs} step {p.step}/{p.steps}: loss {p.loss:.4f} {metrics} "
        f"kept {kept} ({state}), {_duration(p.eta)} to go"
    )


def _duration(seconds: float) -> str:
    """`90` as 1:30, `4000` as 1:06:40."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


@contextmanager
def _bar() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda p: bar.update(task, completed=p.step / p.steps, description=_line(p))
