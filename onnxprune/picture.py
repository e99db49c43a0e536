"""The sensitivity of a model's groups as a picture: what each saves, and how far the outputs move for it."""

import io
import warnings
from collections.abc import Sequence
from math import floor, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune import model as files
from onnxprune.errors import DataError, OutputError, PlanError
from onnxprune.inspection import GroupFacts, Inspection
from onnxprune.widths import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

KINDS: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""What can be written, by the file's ending, and the metadata that would differ from day to day."""
NAMED = 12
"""Groups with a colour and a name; the others are grey."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, told apart by all eyes; solid lines first, then dashed ones."""
LONGEST = 40
"""Letters of a name."""
DECADES = 5
"""Below the largest discrepancy the axis is logarithmic over so many, and then goes linearly to zero."""


def writable(path: str | Path, *, force: bool = True) -> Path:
    """The path, if a picture can be made there; checked before anything is measured. Raises OutputError."""
    path = files.writable(path, force=force, option="--picture")
    if path.suffix.lower() not in KINDS:
        raise OutputError(f"{path}: pictures end with {', '.join(KINDS)}; give one of these with --picture")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise OutputError(f"{path}: pictures need matplotlib: pip install 'onnxprune[plots]'") from None
    return path


def picture(result: Inspection, path: str | Path, *, force: bool = True) -> Path:
    """Writes one line per group: the share of the model's MACs left (of its parameters where no MACs can be saved)
    against the discrepancy. Equal results make equal files.

    Raises OutputError; PlanError where nothing can be pruned, DataError where nothing was measured.
    """
    path = writable(path, force=force)
    groups = [group for group in result.groups if group.sensitivity]
    if not any(group.prunable for group in result.groups):
        raise PlanError(f"{result.model}: nothing can be pruned; onnxprune inspect says why")
    if result.measured is None:
        raise DataError(f"{result.model}: no sensitivity was measured; inspect it with --sensitivity --data")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content, kind = io.BytesIO(), path.suffix.lower()
    with matplotlib.rc_context({"svg.hashsalt": "onnxprune"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in scripts that the font lacks show as boxes
        figure = Figure(figsize=(10, 5.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        named = _draw(axes, groups)
        title = f"{_short(Path(result.model).name)}: one group narrowed at a time"
        axes.set_title(title, loc="left", fontsize="medium", parse_math=False)
        axes.set_ylabel(f"{result.measured.unit}, on {result.measured.inputs} inputs")
        legend = figure.legend(
            [line for line, _ in named], [""] * len(named), loc="outside right upper", fontsize="small"
        )
        for text, (_, name) in zip(legend.get_texts(), named, strict=True):
            text.set_parse_math(False)  # names are no formulas, and may begin with _
            text.set_text(name)
        figure.savefig(content, format=kind[1:], metadata=KINDS[kind])
    files.write_bytes(path, content.getvalue(), force=force, option="--picture")
    return path


def _draw(axes: "Axes", groups: Sequence[GroupFacts]) -> list[tuple["Line2D", str]]:
    """Draws the most sensitive on top; returns the lines of the legend with their names."""
    ranked = sorted(groups, key=_at_half, reverse=True)
    widths = [width for group in ranked for width in group.sensitivity]
    by = "macs" if any(width.macs < 1 for width in widths) else "params"
    named = []
    for rank, group in enumerate(ranked):
        known = [width for width in group.sensitivity if isfinite(width.discrepancy)]
        points = [100 * getattr(width, by) for width in known], [width.discrepancy for width in known]
        style: dict[str, Any] = {"color": "0.8", "linewidth": 1}
        if rank < NAMED:
            dashed = rank >= len(COLOURS)
            style = {"color": COLOURS[rank % len(COLOURS)], "linestyle": "--" if dashed else "-"}
            style |= {"marker": "o", "markersize": 3.5}
        (line,) = axes.plot(*points, zorder=3 - rank / len(ranked), **style)
        if rank <= NAMED:
            named.append(
                (line, _short(group.name) if rank < NAMED else f"{len(ranked) - NAMED} less sensitive")
            )
    most = max((width.discrepancy for width in widths if isfinite(width.discrepancy)), default=0.0)
    if most > 0:
        axes.set_yscale("symlog", linthresh=10.0 ** (floor(log10(most)) + 1 - DECADES))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"% of the model's {'MACs' if by == 'macs' else 'parameters'} left")
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    return named


def _at_half(group: GroupFacts) -> float:
    half = nearest(group.sensitivity, 0.5)
    return half.discrepancy if half else 0.0


def _short(name: str) -> str:
    """A name by its end, where exporters differ between layers."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
