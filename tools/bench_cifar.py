"""What CIFAR-10 networks lose at a budget of MACs, method beside method.

    python tools/bench_cifar.py --data D --nets N --runs R --row resnet56:0.5:tgl --row resnet56:0.5:taylor --epochs 12

    --data   train.npz, val.npz and test.npz, as models/cifar10/prepare_data.py writes them
    --nets   resnet20.onnx, resnet56.onnx, vgg16.onnx, densenet40.onnx: trained ones, see models/cifar10/README.md
    --runs   where results are kept: what is there is not run again, what was interrupted goes on
    --row    NET:RATIO:METHOD[:EPOCHS[:SEED]], repeatable; METHOD is tgl, scp, fisher, taylor or l2 (the last two: one
             shot, then fine-tuned); sensitivity (fisher, its gates ranked by measured sensitivity); repaired (what
             `slim --data` makes of 1,024 images, fine-tuned) or unrepaired (its plan, but the original's weights).
             Without rows the table of what is there is printed.

All rows train on the 45,000 images, from the trained network, with its labels and distillation from it, by the same
recipe and for the same epochs. The accuracy is that of the slim file in onnxruntime, after `slim` has proven it equal
to the gated one: on the test images, and on the 5,000 held-out ones (which a downloaded checkpoint has seen).
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

import onnxprune
from onnxprune.machine import describe_machine
from onnxprune.training import Progress

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from evaluate import accuracy

METHODS: dict[str, dict[str, Any]] = {
    "tgl": {"method": "tgl"},
    "scp": {"method": "scp"},
    "fisher": {"method": "fisher"},
    "sensitivity": {"method": "fisher", "ranking": "sensitivity"},
    "taylor": {"method": "finetune", "method_options": {"criterion": "taylor"}},
    "l2": {"method": "finetune", "method_options": {"criterion": "l2"}},
    "repaired": {"method": "finetune"},
    "unrepaired": {"method": "finetune"},
}
SETTINGS = ("precision", "optimizer", "lr", "schedule", "warmup", "temperature", "augment", "ema")


@dataclass(frozen=True, order=True)
class Row:
    """One training run."""

    net: str
    ratio: float
    method: str
    epochs: int
    seed: int

    @staticmethod
    def of(text: str, epochs: int) -> "Row":
        net, ratio, method, *rest = text.split(":")
        if method not in METHODS:
            raise SystemExit(f"--row {text}: method {method} is none of {', '.join(METHODS)}")
        return Row(net, float(ratio), method, int((rest or [epochs])[0]), int(rest[1]) if len(rest) > 1 else 0)

    @property
    def name(self) -> str:
        return f"{self.net}-{self.ratio}-{self.method}-{self.epochs}-{self.seed}"


def run(row: Row, arguments: argparse.Namespace) -> None:
    """Train, slim, measure; the result goes to RUNS/NAME.json."""
    folder, began = arguments.runs / row.name, time.monotonic()
    dense, gated, slim = arguments.nets / f"{row.net}.onnx", folder / "gated.onnx", folder / "slim.onnx"
    resume = (folder / "run" / "config.json").exists()
    start = dense
    if row.method in ("repaired", "unrepaired"):
        start = one_shot(row, dense, arguments.data / "train.npz", arguments.runs)
    trained = onnxprune.train(
        start, arguments.data / "train.npz", gated, teacher=dense if start != dense else None,
        validation=arguments.data / "val.npz", progress=_progress(row), resume=resume,
        ratio=row.ratio, by="macs", multiple_of=1, epochs=row.epochs, **METHODS[row.method],
        seed=row.seed, run_dir=str(folder / "run"), report_every=50,
        **{name: getattr(arguments, name) for name in SETTINGS},
    )  # fmt: skip
    proven = onnxprune.slim(gated, slim)
    result = {
        **asdict(row),
        "dense": accuracy(dense, arguments.data / "test.npz"),
        "test": accuracy(slim, arguments.data / "test.npz"),
        "val": accuracy(slim, arguments.data / "val.npz"),
        "macs": proven.kept["macs"],
        "params": proven.kept["params"],
        "max_rel_error": proven.verified.max_rel_error,
        "seconds": trained.seconds,
        "wall": time.monotonic() - began,
        "settings": {name: getattr(arguments, name) for name in SETTINGS},
        "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
    }
    (arguments.runs / f"{row.name}.json").write_text(json.dumps(result, indent=1))


def one_shot(row: Row, dense: Path, data: Path, runs: Path) -> Path:
    """The gated model with the gates of a one-shot plan closed, and its weights, or the original's."""
    folder = runs / f"{row.net}-{row.ratio}-one-shot-{row.seed}"
    repaired, unrepaired, plan = (folder / n for n in ("repaired.gated.onnx", "unrepaired.gated.onnx", "plan.json"))
    if not unrepaired.exists():
        folder.mkdir(exist_ok=True)
        onnxprune.slim(
            dense, folder / "repaired.onnx", ratio=row.ratio, by="macs", multiple_of=1, seed=row.seed,
            calibration=onnxprune.Calibration(data), save_gated=repaired, save_plan=plan,
        )  # fmt: skip
        onnxprune.gate(dense, unrepaired, plan=plan)
    return {"repaired": repaired, "unrepaired": unrepaired}[row.method]


def _progress(row: Row) -> onnxprune.training.settings.Report:
    def tell(p: Progress) -> None:
        metrics = " ".join(f"{name} {value:.4f}" for name, value in list(p.metrics.items())[:2])
        print(
            f"{row.name} epoch {p.epoch} step {p.step}/{p.steps} loss {p.loss:.3f} kept {p.reached:.4f} {metrics} "
            f"{p.eta:.0f} s to go", file=sys.stderr, flush=True,
        )  # fmt: skip

    return tell


def table(runs: Path) -> str:
    """A line per network, ratio, method and number of epochs; means over the seeds."""
    results = sorted(
        (json.loads(path.read_text()) for path in runs.glob("*.json")),
        key=lambda r: (r["net"], -r["ratio"], r["epochs"], r["method"], r["seed"]),
    )
    lines = [
        "| network | MACs asked | kept | params kept | method | epochs | seeds | dense | pruned | difference "
        "| held out | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (net, ratio, epochs, method), group in groupby(
        results, key=lambda r: (r["net"], r["ratio"], r["epochs"], r["method"])
    ):
        each = list(group)
        mean = {key: statistics.mean(r[key] for r in each) for key in
                ("macs", "params", "dense", "test", "val", "seconds")}  # fmt: skip
        lines.append(
            f"| {net} | {ratio:g} | {mean['macs']:.3f} | {mean['params']:.3f} | {method} | {epochs} | {len(each)} | "
            f"{mean['dense']:.1%} | {mean['test']:.1%} | {(mean['test'] - mean['dense']) * 100:+.1f} | "
            f"{mean['val']:.1%} | {mean['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nets", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--warmup", type=float, default=0.0)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--augment", default="crop,flip")
    parser.add_argument("--ema", type=float, default=0.0)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for text in arguments.row:
        row = Row.of(text, arguments.epochs)
        if not (arguments.runs / f"{row.name}.json").exists():
            (arguments.runs / row.name).mkdir(exist_ok=True)
            run(row, arguments)
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
