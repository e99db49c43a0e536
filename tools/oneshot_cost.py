"""What one shot costs on large networks: seconds and peak memory, by the number of calibration inputs.

    python tools/oneshot_cost.py [resnet50 vit_b_16] [--inputs 64 128 256] [--ratio 0.5] [--distill EPOCHS]

torchvision's networks with random weights, and random images: the work does not depend on what they hold. Each run is a
process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def exported(net: str, folder: Path) -> Path:
    """The network as an ONNX file with a free batch."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = folder / f"{net}.onnx"
    module = torchvision.models.get_model(net, weights=None).eval()
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():  # ViT's head: its outputs would be constant
            torch.nn.init.normal_(parameter, std=0.02)
    torch.onnx.export(
        module, (torch.zeros(1, 3, 224, 224),), path, dynamo=False, opset_version=18,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
    )  # fmt: skip
    return path


def measured(path: Path, inputs: int, ratio: float, distill: int | None) -> None:
    """One run, told as JSON on the last line of stdout."""
    import onnxprune
    from onnxprune.calibration import Calibration

    images = np.random.default_rng(0).standard_normal((inputs, 3, 224, 224), dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = onnxprune.slim(
        path, ratio=ratio, by="macs", calibration=Calibration({"x": images}, None, inputs), distill=distill
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"seconds": seconds, "peak": peak / 2**20, "before": before / 2**20, "macs": found.kept["macs"],
             "error": found.verified.max_rel_error, "recovery": dict(found.recovery)}  # fmt: skip
    print(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description="What one shot costs on large networks.")
    parser.add_argument("nets", nargs="*", default=["resnet50", "vit_b_16"])
    parser.add_argument("--inputs", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--distill", type=int, help="epochs (default: slim's own choice)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measured(args.one, args.inputs[0], args.ratio, args.distill)
        return
    print("| network | inputs | seconds | peak GiB | of which before | MACs kept | max_rel_error |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for net in args.nets:
            path = exported(net, Path(folder))
            for inputs in args.inputs:
                asked = {"--one": path, "--inputs": inputs, "--ratio": args.ratio, "--distill": args.distill}
                given = [str(part) for pair in asked.items() if pair[1] is not None for part in pair]
                line = [sys.executable, __file__, *given]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                one = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {net} | {inputs} | {one['seconds']:.0f} | {one['peak']:.1f} | {one['before']:.1f} | "
                    f"{one['macs']:.3f} | {one['error']:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
