"""One shot compared: criteria x allocations x recovery, and two peers on the same files and calibration inputs.

    python tools/bench_oneshot.py NETS DATA [--nets resnet20 resnet56] [--ratios 0.7 0.5] [--seeds 0 1 2]
                                  [--ways sensitivity:reconstruction:distill onnxsim:wanda ...] [--noise 0.1]
                                  [--results FILE.jsonl]

NETS holds the networks of models/ as NAME.onnx; DATA their inputs, as the recipes there write them:
NAME_calibration.npz and NAME_test.npz, for the CIFAR-10 ResNets train.npz and test.npz. A way is
SCOPE:CRITERION:RECOVERY (`cut`, `biases`, `statistics`, `repair` or `distill`) or PEER:CRITERION
(tools/oneshot/peers.py). Each seed draws its own calibration inputs. What is measured is appended to the results, and
what stands there is not measured again; the table tells the mean over the seeds. Ways that share a plan count the
seconds of finding it once, with the first; that of `distill` is always found anew. "Agrees" is the share of the test
inputs (pixels, tokens) that the pruned network takes for what the original does, right or wrong; KL the divergence of
its classes from the original's, in nats. Where single images decide, `--noise 0.1` tests on eight copies of each.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from onnxprune.calibration import Calibration

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "models")]
import evaluate  # noqa: E402 - from models/
from oneshot import reaching  # noqa: E402 - from tools/

NETS = ("resnet20", "resnet32", "resnet44", "resnet56", "digits", "mnist", "camvid", "multi30k")
WAYS = (
    "layer:l2:cut", "layer:l1:cut", "layer:gm:cut", "layer:bn:cut", "layer:wanda:cut", "layer:reconstruction:cut",
    "global:l2:cut", "global:gm:cut", "global:wanda:cut", "global:taylor:cut", "global:fisher:cut",
    "global:reconstruction:cut", "sensitivity:l2:cut", "sensitivity:wanda:cut", "sensitivity:fisher:cut",
    "sensitivity:reconstruction:cut", "layer:l2:biases", "layer:l2:statistics", "sensitivity:wanda:biases",
    "sensitivity:wanda:statistics", "layer:l2:repair", "layer:wanda:repair", "layer:reconstruction:repair",
    "global:l2:repair", "global:wanda:repair", "global:taylor:repair", "global:fisher:repair",
    "global:reconstruction:repair", "sensitivity:l2:repair", "sensitivity:wanda:repair", "sensitivity:fisher:repair",
    "sensitivity:reconstruction:repair", "layer:l2:distill", "sensitivity:l2:distill", "sensitivity:wanda:distill",
    "sensitivity:fisher:distill", "sensitivity:reconstruction:distill",
)  # fmt: skip

REPAIRS = {
    "cut": "none", "biases": "biases", "statistics": "statistics", "repair": "weights", "distill": "weights"
}  # fmt: skip

COPIES = 8
"""Of each test input, where noise is added."""

Result = dict[str, Any]


def calibration(data: Path, net: str, samples: int, seed: int) -> dict[str, np.ndarray]:
    """The unlabelled inputs of a network that a seed draws."""
    path = data / ("train.npz" if net.startswith("resnet") else f"{net}_calibration.npz")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files if name != "y"}
    count = len(next(iter(found.values())))
    chosen = np.random.default_rng(seed).choice(count, min(samples, count), replace=False)
    return {name: np.ascontiguousarray(evaluate.normalized(values[chosen])) for name, values in found.items()}


def measured(args: argparse.Namespace, net: str, ratio: float, way: str, seed: int) -> Result:
    """One network pruned in one way: what it keeps, how often it is right, and the seconds that it took."""
    path = args.networks / f"{net}.onnx"
    inputs = calibration(args.data, net, args.samples, seed)
    test = noisy(args.data / ("test.npz" if net.startswith("resnet") else f"{net}_test.npz"), args)
    start = time.perf_counter()
    made, told = (by_peer if way.count(":") == 1 else by_us)(args, path, inputs, ratio, way, seed)
    seconds = time.perf_counter() - start
    result = {"net": net, "ratio": ratio, "by": args.by, "way": way, "seed": seed, "samples": args.samples,
              "multiple": args.multiple_of, "distill": args.distill, "noise": args.noise, "seconds": round(seconds, 1),
              **told}  # fmt: skip
    if made is not None:
        whole, left = onnxprune.inspect(path), onnxprune.inspect(made)
        result |= {by: getattr(left, by) / getattr(whole, by) for by in ("macs", "params")}
        result |= compared(path, made, test)
    return result


def noisy(test: Path, args: argparse.Namespace) -> Path:
    """Copies of the test inputs with Gaussian noise, `args.noise` times their standard deviation; at 0 as they are."""
    if not args.noise:
        return test
    made: Path = args.kept / f"noisy_{test.name}"
    if not made.exists():
        with np.load(test, allow_pickle=False) as arrays:
            copied = {name: np.concatenate([arrays[name]] * COPIES) for name in arrays.files}
        random = np.random.default_rng(0)
        for name in [name for name in copied if name != "y"]:
            values = evaluate.normalized(copied[name])
            if values.dtype.kind == "f":
                noise = random.normal(0, args.noise * values.std(), values.shape)
                copied[name] = values + noise.astype(np.float32)
        np.savez(made, **copied)
    return made


def compared(path: Path, made: onnx.ModelProto, test: Path) -> Result:
    """How often the original and the pruned network are right and alike on the test inputs, and the mean KL
    divergence of the pruned one's classes from the original's, in nats.
    """
    (labels, original), (_, pruned) = evaluate.scored(path, test), evaluate.scored(made, test)
    wanted, guesses = original.argmax(1), pruned.argmax(1)
    return {
        "dense": float((wanted == labels).mean()), "accuracy": float((guesses == labels).mean()),
        "agreement": float((guesses == wanted).mean()), "divergence": reaching.divergence(original, pruned),
    }  # fmt: skip


def by_us(
    args: argparse.Namespace, path: Path, inputs: dict[str, np.ndarray], ratio: float, way: str, seed: int
) -> tuple[onnx.ModelProto, Result]:
    """A way's recoveries share their plan, where the recovery has no say in it; `distill` takes its whole time."""
    scope, criterion, recovery = way.split(":")
    plan = args.kept / f"{path.stem}-{ratio}-{scope}-{criterion}-{seed}.json"
    alone = recovery == "distill" or (recovery == "repair" and criterion == "reconstruction")
    found = onnxprune.slim(
        path, ratio=ratio, by=args.by, scope=scope, criterion=criterion, repair=REPAIRS[recovery],
        multiple_of=args.multiple_of, distill=args.distill if recovery == "distill" else 0, seed=seed,
        calibration=Calibration(inputs, None, args.samples),
        plan=plan if plan.exists() and not alone else None, save_plan=None if alone else plan,
    )  # fmt: skip
    return found.model, {"recovery": dict(found.recovery), "error": found.verified.max_rel_error}


def by_peer(
    args: argparse.Namespace, path: Path, inputs: dict[str, np.ndarray], ratio: float, way: str, seed: int
) -> tuple[onnx.ModelProto | None, Result]:
    from oneshot import peers

    peer, criterion = way.split(":")
    try:
        return peers.PEERS[peer](path, inputs, ratio, args.by, criterion, seed), {}
    except peers.PeerError as error:
        return None, {"failed": str(error)}


def known(path: Path) -> list[Result]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_alike(result: Result, args: argparse.Namespace) -> bool:
    """Whether it was measured with the same settings."""
    wanted = {"by": args.by, "samples": args.samples, "multiple": args.multiple_of, "distill": args.distill,
              "noise": args.noise}  # fmt: skip
    return wanted.items() <= ({"noise": 0.0} | result).items()


def table(results: list[Result]) -> Iterator[str]:
    """A line for each network, ratio and way: means over the seeds, the worst and the best accuracy."""
    yield "| network | asked | way | seeds | MACs | params | dense | pruned | from-to | agrees | KL | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    rows: dict[tuple[str, float, str], list[Result]] = {}
    for result in results:
        rows.setdefault((result["net"], result["ratio"], result["way"]), []).append(result)
    for (net, ratio, way), found in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][1], row[0][2])):
        sound = [one for one in found if "accuracy" in one]
        if not sound:
            yield f"| {net} | {ratio} | {way} | {len(found)} | {found[0]['failed']} |"
            continue
        mean = {name: float(np.mean([one[name] for one in sound])) for name in
                ("macs", "params", "dense", "accuracy", "agreement", "divergence", "seconds")}  # fmt: skip
        right = [one["accuracy"] for one in sound]
        yield (
            f"| {net} | {ratio} | {way} | {len(sound)} | {mean['macs']:.3f} | {mean['params']:.3f} | "
            f"{mean['dense']:.1%} | {mean['accuracy']:.1%} | {min(right):.1%}-{max(right):.1%} | "
            f"{mean['agreement']:.1%} | {mean['divergence']:.2g} | {mean['seconds']:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="One shot compared.")
    parser.add_argument("networks", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--ratios", nargs="+", type=float, default=(0.7, 0.5))
    parser.add_argument("--by", default="macs")
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--multiple-of", type=lambda text: text if text == "auto" else int(text), default=1)
    parser.add_argument("--distill", type=int, help="epochs (default: slim's own choice)")
    parser.add_argument("--noise", type=float, default=0.0, help="in test inputs, as a share of their deviation")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "oneshot.jsonl")
    args = parser.parse_args()
    kept = tempfile.TemporaryDirectory()
    args.kept = Path(kept.name)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("onnxprune").setLevel(logging.INFO)
    alike = [one for one in known(args.results) if is_alike(one, args)]
    done = {(one["net"], one["ratio"], one["way"], one["seed"]) for one in alike}
    for net, ratio, way, seed in product(args.nets, args.ratios, args.ways, args.seeds):
        if (net, ratio, way, seed) in done:
            continue
        result = measured(args, net, ratio, way, seed)
        with args.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), file=sys.stderr, flush=True)
    alike = [one for one in known(args.results) if is_alike(one, args)]
    chosen = [one for one in alike if one["net"] in args.nets and one["ratio"] in args.ratios]
    print("\n".join(table(chosen)))


if __name__ == "__main__":
    main()
