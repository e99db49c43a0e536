"""What analysis and rewriting cost: `python tools/analysis_time.py resnet50.onnx`.

Prints the median seconds of finding the groups, choosing half of the channels, gating and rewriting (loading and saving
apart), and of `onnxprune inspect` as a whole process, and whether that process imported torch.

`--curve 1000 5000 20000 50000` does the same for networks of about so many nodes, once each, in processor seconds;
`--memory` prints what `slim` takes at most, in a process of its own, as a multiple of the file beyond 200 MB.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import deep_nets
import onnx

from onnxprune import gates, groups, model, rewrite
from onnxprune.choose import Wish, choose
from onnxprune.cost import CostModel
from onnxprune.methods.magnitude import magnitude


def one_pass(source: Path | onnx.ModelProto, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Seconds per step, for one slimming to half of the channels."""
    loaded = model.load(source)
    marks = [("", clock())]
    found = groups.find(loaded)
    marks.append(("groups", clock()))
    plan = choose(found, CostModel(found), magnitude(found), Wish(0.5))
    marks.append(("choice", clock()))
    gates.insert(found, plan.latents(found))
    gates.strip(loaded)
    marks.append(("gates in and out", clock()))
    rewrite.apply(found, plan)
    marks.append(("rewriting", clock()))
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


def peak_memory(path: Path) -> float:
    """The most that `slim` takes, in MiB."""
    code = "import sys; from onnxprune.cli import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, "slim", str(path), "--ratio", "0.5", "-o", f"{folder}/slim.onnx"]
        subprocess.run(command, capture_output=True, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def curve(sizes: Sequence[int]) -> None:
    """One line per kind and size of network."""
    for kind, build in deep_nets.KINDS.items():
        for size in sizes:
            net = build(size)
            steps = one_pass(net, time.process_time)
            listed = ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
            each = sum(steps.values()) / len(net.graph.node) * 1e6
            print(f"{kind}: {len(net.graph.node)} nodes, {sum(steps.values()):.2f} s ({listed}), {each:.0f} us a node")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--curve", type=int, nargs="+", default=(), metavar="NODES")
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    curve(arguments.curve)
    for path in arguments.models:
        if arguments.memory:
            size, peak = path.stat().st_size / 2**20, peak_memory(path)
            beyond = (peak - 200) / size
            print(f"{path.name}: {size:.0f} MiB, slim takes {peak:.0f} MiB, 200 and {beyond:.2f} times the file")
            continue
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
