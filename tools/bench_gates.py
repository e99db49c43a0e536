"""What gates cost in training: `python tools/bench_gates.py model.onnx [--methods tgl scp] [--batch 128]`.

Each line is one model and method: the median of step time(with gates) / step time(without), with a 95 % interval. A
step is forward, backward, SGD with momentum, and with gates their own part: the gradients, the move, the projection to
the budget. The steps take turns, in changing order; each pair gives one ratio. Times are the process's processor time,
which other processes disturb less than they do the clock; so it holds for --threads 1, the default.
--check TIMES fails where a ratio's interval lies wholly above it.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_to_torch import compare, interval
from torch import Tensor

from onnxprune import gates, to_torch
from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.groups import find
from onnxprune.training.budget import Budget
from onnxprune.training.features import Features
from onnxprune.training.gating import Gating, method_of
from onnxprune.training.settings import Settings
from onnxprune.training.student import Student

Step = Callable[[], None]


def steps(path: Path, method: str, x: Tensor) -> tuple[Step, Step]:
    """A step without gates, and one with all of them, on inputs `x`."""
    groups = find(files.load(path))
    costs = CostModel(groups)
    plain = to_torch.load(files.to_proto(groups.model)).train()
    gates.insert(groups, {})
    settings = Settings(method=method, ratio=0.5, by="macs", device="cpu", channels_last=x.dim() == 4)
    chosen = method_of(settings)
    sizes = dict(zip(costs.names, costs.sizes, strict=True))
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    student = Student(
        files.to_proto(groups.model),
        settings,
        chosen,
        lambda module: module.to(memory_format=layout),
        sizes,
        Features(),
    )
    gating = Gating(chosen, Budget.of(costs, settings.budget), settings, 10_000)
    gating.attach(student.latents, lambda: find(files.load(path)), student.module.state_dict(keep_vars=True))
    student.put_masks()
    gating.begin(np.random.default_rng(0).uniform(size=gating.budget.gates))
    student.module.train()
    plain.to(memory_format=layout)
    optimizer = torch.optim.SGD(plain.parameters(), 1e-4, 0.9, nesterov=True)
    count = iter(range(10**9))

    def without() -> None:
        _loss(plain(x)).backward()
        optimizer.step()
        optimizer.zero_grad()

    def gated() -> None:
        loss, more = _loss(student.module(x)), chosen.loss()
        (loss if more is None else loss + more).backward()
        student.optimizer.step()
        gating.move(next(count))
        student.optimizer.zero_grad()

    return without, gated


def _loss(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    each = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack(
        [output.float().square().mean() for output in each if output.is_floating_point()]
    ).sum()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=["tgl", "scp"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", type=float)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    x = torch.randn(arguments.batch, 3, arguments.image, arguments.image).contiguous(
        memory_format=torch.channels_last
    )
    missed = False
    print("model            method  with/without gates  95 % interval")
    for path in arguments.models:
        for method in arguments.methods:
            pairs = compare(steps(path, method, x), arguments.rounds, "cpu")
            ratios = [gated / plain for plain, gated in pairs]
            low, high = interval(ratios)
            print(
                f"{path.stem:16s} {method:7s} {statistics.median(ratios):18.3f}  {low:.3f}-{high:.3f}",
                flush=True,
            )
            missed |= arguments.check is not None and low > arguments.check
    sys.exit(missed)


if __name__ == "__main__":
    main()
