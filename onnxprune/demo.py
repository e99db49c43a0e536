"""`onnxprune demo`: the whole way on the handwritten digits of scikit-learn, as a user would go it."""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.bench import bench
from onnxprune.errors import DataError, LawError, ModelError
from onnxprune.inspection import Inspection, inspect
from onnxprune.session import open_session
from onnxprune.slimming import Slimmed, gate, slim
from onnxprune.training.settings import Report
from onnxprune.training.verb import train
from onnxprune.verify import verify

log = logging.getLogger(__name__)

MODEL = "digits.onnx"
HELD_OUT = 450
"""Digits that neither the model's training nor the demo's sees: the split of models/digits/train.py."""
BATCH, THREADS = 16, 1
"""What latency is measured at: single digits take 0.05 ms, most of it onnxruntime's own overhead."""


@dataclass(frozen=True)
class Side:
    """What is compared, of one of the two models."""

    accuracy: float
    channels: int
    """Of the channels that can be pruned."""
    params: int
    macs: int
    bytes: int
    latency_ms: float


@dataclass(frozen=True)
class Demo:
    """The demo's figures; `folder` holds its models."""

    original: Side
    slim: Side
    speedup: float
    low: float
    high: float
    max_rel_error: float
    seconds: float
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The closing table: what, original, slim, fraction kept."""
        a, b = self.original, self.slim
        counts = [
            ("channels", a.channels, b.channels),
            ("parameters", a.params, b.params),
            ("MACs", a.macs, b.macs),
        ]
        rows = [
            (
                "accuracy",
                f"{a.accuracy:.2%}",
                f"{b.accuracy:.2%}",
                f"{(b.accuracy - a.accuracy) * 100:+.2f} points",
            )
        ]
        rows += [(name, f"{x:,}", f"{y:,}", f"{y / x:.3f}") for name, x, y in counts]
        rows += [
            ("file", f"{a.bytes / 1024:,.0f} KiB", f"{b.bytes / 1024:,.0f} KiB", f"{b.bytes / a.bytes:.3f}")
        ]
        times = (f"{a.latency_ms:.3f} ms", f"{b.latency_ms:.3f} ms", f"{b.latency_ms / a.latency_ms:.3f}")
        return [*rows, (f"latency, batch {BATCH}, {THREADS} thread", *times)]


def demo(
    folder: str | Path | None = None,
    *,
    ratio: float = 0.3,
    epochs: int = 60,
    seed: int = 0,
    progress: Report | None = None,
) -> Demo:
    """Gates the built-in model, trains gates and weights to `ratio` of the MACs, slims, proves and measures.

    `folder`: where the models are left (a temporary folder unless given). Raises LawError where slim and gated model
    differ; DataError where scikit-learn, which ships the digits, is not installed.
    """
    start = time.perf_counter()
    place = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="onnxprune-demo-"))
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    (x, y), (held_x, held_y) = digits()
    with built_in() as source:
        model = place / MODEL
        model.write_bytes(source.read_bytes())
    gated_path, trained_path, slim_path = (
        place / f"digits{end}.onnx" for end in (".gated", ".trained.gated", ".slim")
    )
    gated = gate(model, gated_path)
    log.info(
        "gate: %d gates on %d groups, function unchanged (%.0e)",
        gated.gates,
        gated.groups,
        gated.max_rel_error,
    )
    trained = train(
        gated_path, {"x": x, "y": y}, trained_path, validation={"x": held_x, "y": held_y}, progress=progress,
        ratio=ratio, by="macs", epochs=epochs, seed=seed, multiple_of=16,
    )  # fmt: skip
    log.info(
        "train: %.3f of the MACs kept, %d epochs, %.0f s", trained.reached, trained.epochs, trained.seconds
    )
    small = slim(trained_path, slim_path, save_gated=place / "digits.closed.onnx")
    checked = verify(place / "digits.closed.onnx", slim_path)
    if not checked.equal:
        raise LawError(
            f"{slim_path}: gated and slim model differ by {checked.max_rel_error:.1e} of the largest output "
            f"(allowed: {checked.tolerance:.0e}); please report it"
        )
    log.info("slim: equal to the gated model within %.1e on %d inputs", checked.max_rel_error, checked.inputs)
    timed = bench([model, slim_path], batch=BATCH, threads=THREADS, seconds=3.0, memory=False)
    speedup = timed.speedup[0]
    before, after = inspect(model), inspect(slim_path)
    return Demo(
        _side(before, model, accuracy(model, held_x, held_y), timed.models[0].median_ms, None),
        _side(after, slim_path, accuracy(slim_path, held_x, held_y), timed.models[1].median_ms, (before, small)),
        speedup.ratio, speedup.low, speedup.high, max(small.verified.max_rel_error, checked.max_rel_error),
        time.perf_counter() - start, str(place),
    )  # fmt: skip


def _side(
    facts: Inspection, path: Path, right: float, latency: float, kept: tuple[Inspection, Slimmed] | None
) -> Side:
    channels = sum(group.size for group in (kept[0] if kept else facts).groups if group.prunable)
    if kept:
        channels = round(channels * kept[1].kept["channels"])
    return Side(right, channels, facts.params, facts.macs, path.stat().st_size, latency)


Samples = tuple[np.ndarray, np.ndarray]


def digits() -> tuple[Samples, Samples]:
    """(images, labels) to train on and held out: float32 (n, 1, 8, 8) in 0..1, int64 (n,)."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise DataError(
            "the demo's digits come with scikit-learn; install it: pip install 'onnxprune[demo]'"
        ) from None
    found = load_digits()
    images = (found.images / 16).astype(np.float32)[:, None]
    labels = found.target.astype(np.int64)
    x, held_x, y, held_y = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=0, stratify=labels
    )
    return (x, y), (held_x, held_y)


@contextlib.contextmanager
def built_in() -> Iterator[Path]:
    """The built-in model's file: of the installed package, or of the checkout it runs in."""
    installed = resources.files("onnxprune") / "builtin" / MODEL
    checkout = Path(__file__).parents[1] / "models" / "digits" / MODEL
    if installed.is_file():
        with resources.as_file(installed) as path:
            yield path
    elif checkout.is_file():
        yield checkout
    else:
        raise ModelError(f"{checkout}: the built-in model is missing; install onnxprune again")


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose largest logit is the label, in onnxruntime."""
    logits = np.asarray(open_session(model).run(None, {"x": images})[0])
    return float((logits.argmax(axis=1) == labels).mean())
