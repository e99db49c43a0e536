"""What analysis and rewriting cost: `python tools/analysis_time.py resnet50.onnx`.

Prints the median seconds of finding the groups, choosing half of the channels, gating and rewriting (loading and saving
apart), and of `onnxprune inspect` as a whole process, and whether that process imported torch.
"""

import argparse
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from onnxprune import gates, groups, model, rewrite
from onnxprune.choose import Wish, choose
from onnxprune.cost import CostModel
from onnxprune.methods.magnitude import magnitude


def one_pass(path: Path) -> dict[str, float]:
    """Seconds per step, for one slimming to half of the channels."""
    loaded = model.load(path)
    marks = [("", time.perf_counter())]
    found = groups.find(loaded)
    marks.append(("groups", time.perf_counter()))
    plan = choose(found, CostModel(found), magnitude(found), Wish(0.5))
    marks.append(("choice", time.perf_counter()))
    gates.insert(found, plan.latents(found))
    gates.strip(loaded)
    marks.append(("gates in and out", time.perf_counter()))
    rewrite.apply(found, plan)
    marks.append(("rewriting", time.perf_counter()))
    return {name: b - a for (_, a), (name, b) in pairwise(marks)}


def inspect_process(path: Path) -> tuple[float, bool]:
    """Wall seconds of the command, and whether torch was imported."""
    code = (
        "import sys; from onnxprune.cli import main; "
        "main(standalone_mode=False); sys.exit(9 * ('torch' in sys.modules))"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, "inspect", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start, done.returncode == 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    for path in arguments.models:
        passes = [one_pass(path) for _ in range(arguments.runs)]
        steps = {name: statistics.median(p[name] for p in passes) for name in passes[0]}
        whole = statistics.median(sum(p.values()) for p in passes)
        processes = [inspect_process(path) for _ in range(arguments.runs)]
        seconds = statistics.median(p[0] for p in processes)
        torch = "imports torch" if any(p[1] for p in processes) else "without torch"
        listed = ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
        print(f"{path.name}: analysis and rewriting {whole:.2f} s ({listed}); inspect {seconds:.2f} s, {torch}")


if __name__ == "__main__":
    main()
