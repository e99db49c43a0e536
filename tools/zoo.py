"""onnxprune on a zoo of exports, side by side with its peers.

    python tools/zoo.py --cache ~/.cache/onnxprune-zoo --jobs 2 --json zoo.json > zoo.md

Networks of torchvision, timm, transformers, Keras, scikit-learn and of our own, with random weights of which none is
zero, are exported in many forms (exporters, opsets, static and dynamic shapes), then slimmed to half of their channels.
Torch-Pruning does the same to the torch module, onnxsim to the same file. Every step of every model runs in a process
of its own under a limit of time and memory. Exports and results stay in the cache folder, so an interrupted run goes on
where it stopped; failures of onnxprune run again. Exit code 1 if any export that runs in onnxruntime is not slimmed
with max_rel_error <= 1e-5, or keeps over 0.02 more of the MACs than Torch-Pruning.

Needs timm, torchvision, onnxscript; and for their rows transformers, keras, tensorflow, tf2onnx, skl2onnx,
torch-pruning, onnxsim: what is missing is said, and its rows fail.
"""

import argparse
import contextlib
import fnmatch
import importlib.metadata
import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from zoo_models.case import Case
from zoo_models.catalogue import cases, primary
from zoo_models.processes import Found, Limits, Results, forked, limited, warm_up
from zoo_models.steps import take
from zoo_models.table import TRANSIENT, in_words, row_of, summary, table

PEERS = {"torch_pruning": "torch_pruning", "torch_pruning_heads": "torch_pruning", "onnxsim": "onnxsim"}
"""Steps of the peers, and the module each of them needs."""


def run_case(case: Case, args: argparse.Namespace, results: Results) -> None:
    """All steps of a case that are not known yet."""

    def step(name: str, seconds: int) -> Found:
        known = results.get(case, name)
        error = str((known or {}).get("error") or "")
        if known is None or error.startswith(TRANSIENT) or (name == "onnxprune" and error):
            limits = Limits(seconds, args.memory_gib)
            known = results.add(case, name, in_own_process(name, case, args, limits))
            print(json.dumps({k: v for k, v in known.items() if k != "frozen"}), file=sys.stderr, flush=True)
        return known

    if step("export", args.seconds).get("error"):
        return
    step("onnxprune", args.seconds)
    if case != args.primary[case.network]:
        return
    if case.torch and "torch_pruning" in args.peers:
        found = step("torch_pruning", args.peer_seconds)
        if found.get("heads") or found.get("error"):
            step("torch_pruning_heads", args.peer_seconds)
    if "onnxsim" in args.peers:
        step("onnxsim", args.peer_seconds)


def in_own_process(step: str, case: Case, args: argparse.Namespace, limits: Limits) -> Found:
    """Onnxprune in a fresh interpreter, so that its memory is its own; the others where torch is loaded already."""
    if step != "onnxprune":
        return forked(partial(take, step, case, args.cache, args.ratio), limits)
    command = [
        sys.executable,
        __file__,
        "--cache",
        args.cache,
        "--ratio",
        args.ratio,
        "--one",
        step,
        case.name,
    ]
    return limited([str(part) for part in command], limits)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the exports and results")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="cases whose name this matches, as *vit*"
    )
    parser.add_argument("--once", action="store_true", help="every network in one form only")
    parser.add_argument("--family", help="cases of this family: torchvision, timm, transformers, ...")
    parser.add_argument(
        "--fresh", nargs="?", const="all", metavar="STEP",
        help="forget earlier results of these cases, or those of one step (as onnxprune), but not the exports",
    )  # fmt: skip
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--jobs", type=int, default=1, help="models at the same time, one core each")
    parser.add_argument("--seconds", type=int, default=300, help="limit per step of a model")
    parser.add_argument(
        "--peer-seconds", type=int, default=120, help="the same for the peers, of which some hang"
    )
    parser.add_argument("--memory-gib", type=int, default=12, help="limit of address space per step")
    parser.add_argument("--json", type=Path, help="write rows and summary to this file")
    parser.add_argument("--list", action="store_true", help="name the cases, run nothing")
    parser.add_argument("--table-only", action="store_true", help="show what is known, run nothing")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "CASE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def available(wanted: bool) -> set[str]:
    """Steps of the peers that can run here."""
    found = {step for step, module in PEERS.items() if importlib.util.find_spec(module)} if wanted else set()
    for step in PEERS if wanted else ():
        if step not in found:
            print(f"{PEERS[step]} is not installed: no figures of {step}", file=sys.stderr)
    return found


def made_with() -> str:
    """The command and the versions of what ran."""
    known = []
    for name in ("onnx", "onnxruntime", "torch", "torchvision", "timm", "transformers", "torch-pruning", "onnxsim"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{name} {importlib.metadata.version(name)}")
    return f"Made by `python tools/zoo.py` with {', '.join(known)}; everything on one core."


def main() -> int:
    """Run what is missing, print the table and the summary."""
    args = parsed()
    if args.one:
        print(json.dumps(take(args.one[0], Case.named(args.one[1]), args.cache, args.ratio)))
        return 0
    every = list(cases())
    args.primary = primary(every)
    pattern = args.only if "*" in args.only else f"*{args.only}*"
    chosen = [
        case
        for case in (args.primary.values() if args.once else every)
        if fnmatch.fnmatch(case.name, pattern) and args.family in (None, case.family)
    ]
    if args.list:
        print("\n".join(case.name for case in chosen))
        return 0
    args.cache.mkdir(parents=True, exist_ok=True)
    args.peers = available(args.peers)
    results = Results(args.cache / f"results-{args.ratio}.jsonl")
    if args.fresh:
        results.forget(chosen, args.fresh)
    if not args.table_only:
        warm_up()
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda case: run_case(case, args, results), chosen))
    rows = [row_of(case, results.of, args.primary[case.network]) for case in chosen]
    figures = summary(rows)
    print("\n\n".join(("# Zoo", made_with(), in_words(figures), table(rows))))
    if args.json:
        args.json.write_text(
            json.dumps({"ratio": args.ratio, "summary": figures, "models": rows}, indent=1) + "\n"
        )
    return 1 if figures["failures"] or figures["above_torch_pruning"] else 0


if __name__ == "__main__":
    sys.exit(main())
