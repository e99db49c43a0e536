"""How near the freeze of the gates comes to budgets, on the channel groups of given models and random rankings.

    python tools/bench_budgets.py resnet20.onnx resnet56.onnx vgg16.onnx densenet40.onnx --seeds 2

A line per model, limits and multiple: the most that any limit is missed by over the seeds, and the longest time.
models/cifar10/export.py writes the four networks; weights do not matter here.
"""

import argparse
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.groups import find
from onnxprune.training.balance import Balance
from onnxprune.training.budget import Budget
from onnxprune.training.repair import repair

LIMITS = ({"macs": 0.5}, {"macs": 0.34}, {"macs": 0.2}, {"params": 0.4}, {"macs": 0.5, "params": 0.4})
MULTIPLES: tuple[int | str, ...] = (1, 4, 8, "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    print("| model | limits | multiple | missed by | seconds |\n|---|---|---|---|---|")
    for path in arguments.models:
        costs = CostModel(find(files.load(path)))
        for limits, multiple in product(LIMITS, MULTIPLES):
            missed, seconds = worst(Budget.of(costs, limits, multiple_of=multiple), limits, arguments.seeds)
            asked = " ".join(f"{by} {limit:g}" for by, limit in limits.items())
            print(f"| {path.stem} | {asked} | {multiple} | {missed:.4f} | {seconds:.2f} |", flush=True)


def worst(budget: Budget, limits: Mapping[str, float], seeds: int) -> tuple[float, float]:
    """The most that a limit is missed by, and the longest time in seconds, over random rankings."""
    missed, seconds = 0.0, 0.0
    for seed in range(seeds):
        w = np.random.default_rng(seed).uniform(0.01, 0.19, budget.gates).astype(np.float32)
        began = time.monotonic()
        shares = budget.shares(budget.opened(repair(budget, Balance(budget).level(w))))
        seconds = max(seconds, time.monotonic() - began)
        missed = max(missed, *(abs(limit - shares[by]) for by, limit in limits.items()))
    return missed, seconds


if __name__ == "__main__":
    main()
