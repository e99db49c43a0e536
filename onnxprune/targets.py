"""Bounds on a measured speed-up: at least so much, or no worse than an earlier measurement."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxprune.bench import BenchResult, Speedup
from onnxprune.errors import DataError, TargetMissed

_DEPENDS_ON = ("provider", "threads", "batch")


def check(
    result: BenchResult,
    *,
    min_speedup: float | None = None,
    baseline: str | Path | Mapping[str, Any] | None = None,
    max_regression: float | str = 0.05,
) -> None:
    """Hold a measurement against bounds: raises TargetMissed, which names every bound that was missed.

    `min_speedup`: the least ratio that each later model must have over the first. `baseline`: an earlier
    measurement (`to_json()`, or a file of it). Of it only the speed-up ratios count, not the milliseconds, so
    it may come from another machine: each pair of models, known by their file names, may have lost at most
    `max_regression` (0.05 or "5%") of its ratio. Provider, threads and batch must be the same, since the
    ratio depends on them.

    Raises DataError for a baseline that cannot be compared, or where there is nothing to compare.
    """
    if min_speedup is None and baseline is None:
        return
    if not result.speedup:
        raise DataError("one model has no speed-up to check: give the original first, then the faster models")
    missed = [
        f"{entry.of} is {entry.ratio:.2f}x as fast as {entry.over}, asked for {min_speedup:g}x"
        for entry in result.speedup
        if min_speedup is not None and not entry.ratio >= min_speedup
    ]
    if baseline is not None:
        loss = fraction(max_regression)
        missed += [
            f"{entry.of} is {entry.ratio:.2f}x as fast as {entry.over}, "
            f"{1 - entry.ratio / before:.1%} below the {before:.2f}x of the baseline (allowed: {loss:.1%})"
            for entry, before in _pairs(result, baseline)
            if not entry.ratio >= before * (1 - loss)
        ]
    if missed:
        raise TargetMissed("; ".join(missed))


def fraction(text: str | float) -> float:
    """A share of one: 0.05, "0.05" and "5%" are the same. Raises DataError unless 0 <= share < 1."""
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise DataError(f"'{text}' is no share from 0 to below 1: write it as 5% or 0.05")
    return value


def _pairs(result: BenchResult, baseline: str | Path | Mapping[str, Any]) -> Iterator[tuple[Speedup, float]]:
    """Each measured speed-up with the ratio the baseline has for the same file names."""
    name = "the baseline" if isinstance(baseline, Mapping) else str(baseline)
    saved = baseline if isinstance(baseline, Mapping) else _read(Path(baseline))
    try:
        asked = {key: saved[key] for key in _DEPENDS_ON}
        ratios = {
            (Path(entry["of"]).name, Path(entry["over"]).name): float(entry["ratio"])
            for entry in saved["speedup"]
        }
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{name}: not the JSON of a bench; save one with `onnxprune bench --json`") from None
    for key, before in asked.items():
        if before != (now := getattr(result, key)):
            raise DataError(f"{name}: measured with {key} {before}, this with {now}: use the same for both")
    for entry in result.speedup:
        pair = Path(entry.of).name, Path(entry.over).name
        if not ratios.get(pair, math.nan) > 0:
            raise DataError(
                f"{name}: holds no speed-up of {pair[0]} over {pair[1]}; measure these two for it"
            )
        yield entry, ratios[pair]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the baseline ({error.strerror}); give a saved bench") from error
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise DataError(f"{path}: not the JSON of a bench; save one with `onnxprune bench --json`")
    return saved
