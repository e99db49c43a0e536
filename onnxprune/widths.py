"""What each width of a channel group alone saves, and how far the outputs move: `onnxprune inspect --sensitivity`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.apart import Apart
from onnxprune.calibration import Calibration
from onnxprune.cost import CostModel
from onnxprune.errors import DataError
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.discrepancy import TEMPERATURE
from onnxprune.recovery.sensitivity import Curve, measured_curves


@dataclass(frozen=True)
class Width:
    """The model with one group narrowed to `kept` channels and everything else whole."""

    kept: int
    macs: float
    """What is left of the whole model's, as `params`; 1.0 where the model has none."""
    params: float
    discrepancy: float
    """How far the outputs are from the original's (`recovery.discrepancy`); infinite where they hold NaN."""


@dataclass(frozen=True)
class Measured:
    """On what the discrepancies were measured."""

    inputs: int
    outputs: Mapping[str, str]
    """How each output is compared: `logits` or `probabilities` by KL divergence at `discrepancy.TEMPERATURE`, `values`
    by squared error per variance, `nothing` where it is constant or holds no floating-point numbers. The discrepancy is
    the mean of those that say something.
    """

    @property
    def unit(self) -> str:
        """What the discrepancy is, in words."""
        kinds = [kind for kind in self.outputs.values() if kind != "nothing"]
        names = dict.fromkeys(
            "squared error per variance"
            if kind == "values"
            else f"KL divergence at temperature {TEMPERATURE:g}"
            for kind in kinds
        )
        return " or ".join(names) + (f", mean of {len(kinds)} outputs" if len(kinds) > 1 else "")


def measure(
    parts: Apart, calibration: Calibration, seed: int, where: str
) -> tuple[dict[str, tuple[Width, ...]], Measured]:
    """The widths of every group of a model without gates, all kept first.

    `where`: how messages call the model. Raises DataError, ModelError, OutputError.
    """
    batches = calibration.draw(parts.light, seed)
    anatomy = Anatomy.of(parts, {}, seed)
    names = anatomy.costs.names
    anatomy.measure(batches)
    outputs = dict(zip(anatomy.pieces.outputs, (head.kind for head in anatomy.heads), strict=True))
    if set(outputs.values()) == {"nothing"}:
        raise DataError(
            f"{where}: no output holds floating-point numbers that differ: none shows what a group is worth; "
            "give other inputs, or the model without the ops that decide at its end"
        )
    found, inputs = measured_curves(anatomy, batches, names)
    widths = {curve.group: _priced(curve, anatomy.costs) for curve in found}
    return widths, Measured(inputs, outputs)


def _priced(curve: Curve, costs: CostModel) -> tuple[Width, ...]:
    at = costs.names.index(curve.group)
    widths = []
    for kept, moved in zip(curve.kept, curve.discrepancy, strict=True):
        counts = [*costs.sizes[:at], kept, *costs.sizes[at + 1 :]]
        left = [float(costs.fraction(by, counts)) if costs.total[by] else 1.0 for by in ("macs", "params")]
        widths.append(
            Width(kept, left[0], left[1], max(moved, 0.0))
        )  # a divergence of zero may round below it
    return tuple(widths)


def nearest(widths: Sequence[Width], part: float) -> Width | None:
    """The measured width next to this part of the channels, the wider of two; None where there is but the whole."""
    return min(widths[1:], key=lambda width: abs(width.kept - part * widths[0].kept), default=None)


def price(widths: Sequence[Width]) -> float:
    """The discrepancy per 1 % of the model's MACs that the width next to half saves; infinite where it saves none."""
    half = nearest(widths, 0.5)
    saved = 100 * (1 - half.macs) if half else 0.0
    return half.discrepancy / saved if half and saved > 0 else float("inf")
