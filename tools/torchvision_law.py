"""Check the law on fresh torchvision exports.

    python tools/torchvision_law.py --cache ~/.cache/onnxprune-zoo

Every network is exported by both torch exporters, with static and dynamic batch (and one of them with its
BatchNormalization nodes kept), then slimmed to half of its channels in its own process. One table and one
JSON object say what was reached; exit code 1 if any model misses max_rel_error <= 1e-5 or MACs kept <= 0.30.
Exports and finished results stay in the cache folder, so an interrupted run continues where it stopped.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_models.processes import Limits, limited
from zoo_models.steps import peak_mib

if TYPE_CHECKING:
    import torch

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121", "efficientnet_b0")
BN_KEPT = "resnet18"
MAX_REL_ERROR = 1e-5
MAX_MACS_KEPT = 0.30


@dataclass(frozen=True)
class Case:
    """One export: which network, by which exporter, in which form."""

    network: str
    exporter: str  # "dynamo" | "torchscript"
    batch: str  # "static" | "dynamic"
    bn_kept: bool = False

    @property
    def name(self) -> str:
        """`resnet18.dynamo.static`, with `.bn` at its end where BatchNormalization is kept."""
        return ".".join((self.network, self.exporter, self.batch)) + (".bn" if self.bn_kept else "")


def cases() -> Iterator[Case]:
    """Every export that the law is checked on."""
    for network in NETWORKS:
        for exporter in ("dynamo", "torchscript"):
            for batch in ("static", "dynamic"):
                yield Case(network, exporter, batch)
                if network == BN_KEPT:
                    yield Case(network, exporter, batch, bn_kept=True)


def random_network(name: str, seed: int = 0) -> "torch.nn.Module":
    """The torchvision network with random parameters of which none is zero, its BN statistics measured."""
    import torch
    import torchvision
    from zoo_models.weights import randomize

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    network: torch.nn.Module = getattr(torchvision.models, name)(weights=None)
    return randomize(network, lambda: network(torch.randn(8, 3, 128, 128)))


def export(case: Case, folder: Path) -> Path:
    """The ONNX file of the case, exported unless the folder already holds it."""
    path = folder / f"{case.name}.onnx"
    if path.exists():
        return path
    import torch

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # that exporter is deprecated, its files will stay with us for years
    network = random_network(case.network)
    images = torch.randn(1 if case.batch == "static" else 2, 3, 224, 224)
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["logits"]}
    partial = path.with_suffix(".partial")
    if case.exporter == "dynamo":
        if case.batch == "dynamic":
            names["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            network,
            (images,),
            partial,
            dynamo=True,
            external_data=False,
            optimize=not case.bn_kept,
            verbose=False,
            **names,
        )
    else:
        if case.batch == "dynamic":
            names["dynamic_axes"] = {"input": {0: "batch"}, "logits": {0: "batch"}}
        mode = torch.onnx.TrainingMode.PRESERVE if case.bn_kept else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            network,
            (images,),
            partial,
            dynamo=False,
            training=mode,
            do_constant_folding=not case.bn_kept,
            **names,
        )
    partial.rename(path)
    return path


def slim(path: Path, ratio: float) -> dict[str, Any]:
    """Slim one file and say what came out; runs in the child process.

    `core_seconds` is analysis and rewriting; `slim_seconds` has loading, proving and saving as well.
    """
    import onnx

    import onnxprune

    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    output = path.with_suffix(".slim.onnx")
    started = time.perf_counter()
    result = onnxprune.slim(path, output, ratio=ratio, by="channels").to_json()
    whole = time.perf_counter() - started
    output.unlink()
    return {
        "nodes": nodes,
        "groups": sum(group["prunable"] for group in onnxprune.inspect(path).to_json()["groups"]),
        "channels_kept": result["kept"]["channels"],
        "macs_kept": result["kept"]["macs"],
        "params_kept": result["kept"]["params"],
        "max_rel_error": result["verified"]["max_rel_error"],
        "core_seconds": result["seconds"],
        "slim_seconds": whole,
        "peak_mib": peak_mib(),
    }


def checked(case: Case, folder: Path, ratio: float, seconds: int, memory_gib: int) -> dict[str, Any]:
    """The result of the case: figures or the error, never an exception; the limits hold for the child."""
    row: dict[str, Any] = {"name": case.name, **asdict(case), "error": None}
    command = [sys.executable, __file__, "--one", str(export(case, folder)), "--ratio", str(ratio)]
    row |= limited(command, Limits(seconds, memory_gib))
    if row["error"]:
        return row
    if not row["max_rel_error"] <= MAX_REL_ERROR:
        row["error"] = f"max_rel_error {row['max_rel_error']:.1e} > {MAX_REL_ERROR:.0e}"
    elif not row["macs_kept"] <= MAX_MACS_KEPT:
        row["error"] = f"MACs kept {row['macs_kept']:.3f} > {MAX_MACS_KEPT:.2f}"
    return row


COLUMNS = {
    "name": "{}", "nodes": "{}", "groups": "{}", "channels_kept": "{:.3f}", "macs_kept": "{:.3f}",
    "params_kept": "{:.3f}", "max_rel_error": "{:.1e}", "core_seconds": "{:.2f}", "slim_seconds": "{:.1f}",
    "peak_mib": "{:.0f}", "error": "{}",
}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as one markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = ["" if row.get(key) is None else form.format(row[key]) for key, form in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """The results in the JSON lines file, by name of the case, less the failures: they run again."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return {row["name"]: row for row in rows if row["error"] is None}


def main() -> int:
    """Parse, run what is missing, print the table and the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, help="folder of the exports and results")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results, keep the exports")
    parser.add_argument("--seconds", type=int, default=600, help="limit per model")
    parser.add_argument("--memory-gib", type=int, default=12, help="limit of address space per model")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(slim(args.one, args.ratio)))
        return 0
    if args.cache is None:
        parser.error("--cache FOLDER is needed")
    args.cache.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in cases() if args.only in case.name]
    if args.export_only:
        for case in chosen:
            print(export(case, args.cache), file=sys.stderr)
        return 0
    results = args.cache / f"results-{args.ratio}.jsonl"
    if args.fresh:
        results.unlink(missing_ok=True)
    known = finished(results)
    for case in chosen:
        if case.name in known:
            continue
        known[case.name] = checked(case, args.cache, args.ratio, args.seconds, args.memory_gib)
        print(json.dumps(known[case.name]), file=sys.stderr)
        with results.open("a") as file:
            file.write(json.dumps(known[case.name]) + "\n")
    rows = [known[case.name] for case in chosen]
    print(table(rows))
    print(json.dumps({"ratio": args.ratio, "models": rows}))
    return 1 if any(row["error"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
