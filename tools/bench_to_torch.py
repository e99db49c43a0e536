"""How fast re-imported networks train beside their own modules: `python tools/bench_to_torch.py resnet50 vit_b_16`.

Each line is one export of a torchvision network: the median of step time(re-imported) / step time(native), with a 95 %
interval. A step is forward, backward and SGD with momentum. Native and re-imported steps take turns, in changing order,
and each pair gives one ratio. On a CPU a step's time is the process's processor time, which other processes disturb
less than they do the clock; so it holds for --threads 1, the default.

An export is `exporter.opset.mode`: in mode `train` BatchNorm is left as it is and both modules are in train mode, in
mode `eval` it is folded as the exporter folds it and both are in eval mode, with gradients.

--gated puts all gates in; --compiled runs the re-imported module through torch.compile, on a CPU without its choice of
layouts, which costs ResNet-50 more than it gains, while the native one stays eager; --unfused loads with fuse=False.
--check TIMES fails where a ratio's interval lies wholly above it.
"""

import argparse
import io
import json
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import onnx
import torch
import torch.nn.functional as F
from torch import nn

from onnxprune import gates, groups, model
from onnxprune.methods.gate import gate
from onnxprune.to_torch import load

NETWORKS = ("resnet50", "mobilenet_v2", "vit_b_16")
EXPORTS = (
    "torchscript.17.train", "torchscript.17.eval", "torchscript.20.eval", "dynamo.20.eval", "dynamo.23.eval",
    "dynamo.20.train", "dynamo.23.train",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measured pair; times in milliseconds a step."""

    network: str
    export: str
    native: float
    imported: float
    ratio: float
    low: float
    high: float
    load_seconds: float


def network(name: str, image: int) -> nn.Module:
    """Untrained, with statistics and biases apart from each other: the exporters merge tensors of equal values."""
    import torchvision

    torch.manual_seed(0)
    sized = {"image_size": image} if name.startswith("vit") else {}
    made: nn.Module = getattr(torchvision.models, name)(weights=None, **sized)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.9, 1.1)
            elif tensor.dim() > 1 and not tensor.any():  # the head of a vision transformer
                tensor.normal_(std=0.02)
    return made


def export(module: nn.Module, x: torch.Tensor, how: str) -> onnx.ModelProto:
    exporter, opset, mode = how.split(".")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of their own deprecations
        if exporter == "dynamo":
            sizes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=sizes, optimize=mode == "eval",
                opset_version=int(opset),
            )  # fmt: skip
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        kept = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE} if mode == "train" else {}
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=int(opset), input_names=["x"],
            dynamic_axes={"x": {0: "batch"}}, **kept,
        )  # fmt: skip
        return onnx.load_from_string(file.getvalue())


def gated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With every gate that `onnxprune gate` would put in, all open."""
    loaded = model.load(proto)
    found = groups.find(loaded)
    gates.insert(found, {})
    return model.to_proto(loaded)


def stepper(
    module: Callable[..., torch.Tensor], parameters: Sequence[nn.Parameter], x: torch.Tensor, bf16: bool
) -> Callable[[], None]:
    """One training step, as a function."""
    optimizer = torch.optim.SGD(parameters, 1e-4, momentum=0.9)
    labels = torch.arange(len(x), device=x.device) % 1000

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(module(x), labels)
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Of the median: the order statistics that hold it in 95 % of samples."""
    ordered, n = sorted(ratios), len(ratios)
    reach = 0.98 * n**0.5
    return ordered[max(0, int(n / 2 - reach))], ordered[min(n - 1, int(n / 2 + reach))]


def compare(steps: Sequence[Callable[[], None]], rounds: int, device: str) -> list[tuple[float, float]]:
    """Seconds of both steps, round by round, after a warm-up."""
    for step in steps:
        step()
        step()
    pairs = []
    for turn in range(rounds):
        times = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which] = seconds(steps[which], device)
        pairs.append((times[0], times[1]))
    return pairs


def measure(name: str, how: str, arguments: argparse.Namespace) -> Row:
    device = arguments.device
    native = network(name, arguments.image).eval()
    proto = export(native, torch.randn(2, 3, arguments.image, arguments.image), how)
    proto = gated(proto) if arguments.gated else proto
    start = time.perf_counter()
    options = {"fuse": False} if arguments.unfused else {}
    imported = load(proto, gate_value=gate if arguments.gated else None, **options)
    took = time.perf_counter() - start
    x = torch.randn(arguments.batch, 3, arguments.image, arguments.image, device=device)
    if arguments.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    steps = []
    for module in (native, imported):
        module.train(how.endswith("train")).to(device)
        if arguments.channels_last:
            module.to(memory_format=torch.channels_last)
        compiled = arguments.compiled and module is imported
        layouts = {"layout_optimization": False} if device == "cpu" else None
        called = torch.compile(module, fullgraph=True, options=layouts) if compiled else module
        steps.append(stepper(called, list(module.parameters()), x, arguments.bfloat16))
    pairs = compare(steps, arguments.rounds, device)
    ratios = [b / a for a, b in pairs]
    own, ours = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    return Row(name, how, own, ours, statistics.median(ratios), *interval(ratios), took)


def machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as lines:  # noqa: PTH123
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--exports", nargs="+", default=EXPORTS, metavar="EXPORTER.OPSET.MODE")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--check", type=float)
    for flag in ("gated", "compiled", "channels-last", "bfloat16", "unfused", "json"):
        parser.add_argument(f"--{flag}", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_to = [f for f in ("gated", "compiled", "channels_last", "bfloat16", "unfused") if getattr(arguments, f)]
    if not arguments.json:
        print(f"torch {torch.__version__}, {machine(arguments.device)}, batch {arguments.batch}, image "
              f"{arguments.image}, {arguments.rounds} rounds{''.join(f', {s}' for s in set_to)}")  # fmt: skip
        print(f"{'network':14} {'export':22} {'native ms':>9} {'ours ms':>9} {'ratio':>6} {'95 % interval':>15} load s")
    slow = 0
    for name in arguments.networks:
        for how in arguments.exports:
            row = measure(name, how, arguments)
            slow += arguments.check is not None and row.low > arguments.check
            if arguments.json:
                print(json.dumps({**asdict(row), "settings": set_to, "machine": machine(arguments.device)}), flush=True)
                continue
            print(f"{name:14} {how:22} {row.native:9.1f} {row.imported:9.1f} {row.ratio:6.3f} "
                  f"{row.low:7.3f}-{row.high:.3f} {row.load_seconds:8.2f}", flush=True)  # fmt: skip
    sys.exit(slow > 0)


if __name__ == "__main__":
    main()
