"""Whether `slim --by latency` is as fast as asked: each slim model timed again beside its original.

    python tools/bench_latency.py MODEL.onnx... [--ratios 0.7 0.5 0.3] [--threads 1] [--batch 1] [--provider cpu]

The weights are not repaired: they have no part in it.
"""

import argparse
import time
from pathlib import Path

import onnxprune
from onnxprune.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--ratios", nargs="+", type=float, default=(0.7, 0.5, 0.3))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--provider", default="cpu")
    args = parser.parse_args()
    setting = {"threads": args.threads, "batch": args.batch, "provider": args.provider}
    print(f"{describe_machine(args.provider)}; {setting}\n")
    print("| model | latency asked | reached | timed again (95 % interval) | MACs | seconds |")
    print("|---|---|---|---|---|---|")
    for path in args.models:
        for ratio in args.ratios:
            began = time.perf_counter()
            found = onnxprune.slim(path, ratio=ratio, by="latency", **setting)
            seconds = time.perf_counter() - began
            again = onnxprune.bench([path, found.model], seconds=5, memory=False, **setting).speedup[0]
            print(
                f"| {path.stem} | {ratio:g} | {found.kept['latency']:.3f} | {1 / again.ratio:.3f} "
                f"({1 / again.high:.3f} to {1 / again.low:.3f}) | {found.kept['macs']:.3f} | {seconds:.0f} |",
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
