"""to_torch on the exports of the zoo: parity with onnxruntime, compiled whole, and exported again.

    python tools/zoo.py --cache ~/.cache/onnxprune-zoo --no-peers      # makes the exports
    python tools/zoo_to_torch.py --cache ~/.cache/onnxprune-zoo --jobs 2 > to_torch.md

Steps (`--steps`, all by default), each of each file in a process of its own under a limit of time:
parity   the largest |torch - onnxruntime| / max |onnxruntime| over all outputs, on random inputs, of two batch sizes
         where the batch is free; where that is larger than 1e-4, both against the module in double precision: random
         weights may magnify rounding, which onnxruntime's own distance tells
compile  torch.compile(fullgraph=True): traced whole by dynamo and AOT autograd, in train mode where the batch is more
         than one sample, run by PyTorch's own kernels; the same outputs and gradients as without within 1e-4, or
         within 1e-8 both in double precision
export   torch.export of the module, the program exported to ONNX anew, and that in onnxruntime against the file
Results stay in the folder, so an interrupted run goes on; failures run again. Exit code 1 if any step fails.
"""

import argparse
import copy
import fnmatch
import io
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from zoo_models.processes import Found, Limits, limited

TOLERANCE = 1e-4
NOISE = 1e-6
"""Gradients so much smaller than the largest are rounding alone, as those of the biases of attention's keys are."""
EXACT = 1e-8
"""How near compiled and eager are in double precision where only rounding parts them in float32."""
ROUNDING = 10
"""How many times as far from double precision as onnxruntime the module may be where rounding is magnified."""
RESULTS = "to_torch.jsonl"


def apart(ours: Sequence[Any], theirs: Sequence[np.ndarray]) -> float:
    """The largest relative difference of any output."""
    from onnxprune.compare.recording import relative_error

    return max(
        relative_error(want, got.detach().double().numpy() if want.dtype.kind == "f" else got.numpy(), "output")
        for got, want in zip(ours, theirs, strict=True)
    )


def listed(result: Any) -> list[Any]:
    """The outputs of a module, however many."""
    return list(result) if isinstance(result, tuple | list) else [result]


def arrays(feed: dict[str, np.ndarray]) -> list[Any]:
    """The inputs as tensors."""
    import torch

    return [torch.from_numpy(np.array(value)) for value in feed.values()]


def judged(key: str, module: Any, inputs: Sequence[Any], ours: Sequence[Any], theirs: Sequence[np.ndarray]) -> Found:
    """How far `ours` is from onnxruntime's; where that is far, how far both are from double precision."""
    import torch

    error = apart(ours, theirs)
    if error <= TOLERANCE:
        return {key: error}
    doubled = copy.deepcopy(module).double()
    with torch.no_grad():
        exact = listed(doubled(*(x.double() if x.is_floating_point() else x for x in inputs)))
    truth = [np.asarray(value) for value in exact]
    distance, usual = apart(ours, truth), apart([torch.from_numpy(np.array(v)) for v in theirs], truth)
    return {
        key: error,
        "from_double": distance,
        "onnxruntime_from_double": usual,
        "rounding": bool(distance <= ROUNDING * usual),
    }


def parity(path: Path) -> Found:
    """Load, and both engines' outputs."""
    import torch

    from onnxprune.compare.recording import record
    from onnxprune.to_torch import load

    recorded = record(path)
    started = time.perf_counter()
    module = load(path)
    seconds = time.perf_counter() - started
    facts: Found = {"load_seconds": round(seconds, 2), "calls": len(module.graph.nodes)}
    found = []
    for feed, outputs in recorded.runs:
        with torch.no_grad():
            ours = listed(module(*arrays(feed)))
        found.append(judged("error_of_outputs", module, arrays(feed), ours, outputs))
    return max(found, key=lambda f: (not f.get("rounding", True), f["error_of_outputs"])) | facts


def compiled(path: Path) -> Found:
    """A step of training, eager and compiled whole; where they are far apart, both again in double precision."""
    error = apart_compiled(path)
    if error <= TOLERANCE:
        return {"error_of_compiled": error}
    exact = apart_compiled(path, doubled=True)
    return {"error_of_compiled": error, "in_double": exact, "rounding": exact <= EXACT}


def apart_compiled(path: Path, *, doubled: bool = False) -> float:
    """The largest relative difference of an output or a gradient, compiled and eager."""
    import torch

    from onnxprune.compare.recording import record
    from onnxprune.to_torch import load

    feed, _ = record(path).runs[0]
    inputs, batch = arrays(feed), len(next(iter(feed.values())))
    inputs = [x.double() if doubled and x.is_floating_point() else x for x in inputs]
    figures = []
    for wrap in (lambda m: m, lambda m: torch.compile(m, fullgraph=True, backend="aot_eager")):
        module = load(path).train(batch > 1)
        module = module.double() if doubled else module
        for child in module.modules():
            if "Dropout" in type(child).__name__:
                child.eval()
        outputs = listed(wrap(module)(*inputs))
        floats = [out for out in outputs if out.requires_grad]
        sum((out.square().mean() for out in floats), torch.zeros(())).backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        figures.append([out.detach() for out in outputs] + gradients)
    top = max((float(v.abs().max()) for v in figures[0] if v.is_floating_point() and v.numel()), default=0.0)
    told = [
        (ours, np.asarray(theirs.double()) if theirs.is_floating_point() else theirs.numpy())
        for theirs, ours in zip(*figures, strict=True)
        if not theirs.is_floating_point() or not theirs.numel() or float(theirs.abs().max()) > NOISE * top
    ]
    return apart(*zip(*told, strict=True))


def exported(path: Path) -> Found:
    """Through torch.export back to ONNX."""
    import onnxruntime
    import torch

    from onnxprune.compare.recording import record
    from onnxprune.to_torch import load

    feed, outputs = record(path).runs[0]
    inputs = tuple(arrays(feed))
    module = load(path)
    program = torch.export.export(module, inputs)
    file = io.BytesIO()
    anew = torch.onnx.export(program, inputs, dynamo=True, verbose=False, optimize=True)
    anew.save(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    result = session.run(None, dict(zip(names, feed.values(), strict=True)))
    made = [torch.from_numpy(np.array(value)) for value in result]
    return judged("error_of_reexport", module, inputs, made, outputs)


STEPS: dict[str, Callable[[Path], Found]] = {"parity": parity, "compile": compiled, "export": exported}


def take(step: str, path: Path) -> Found:
    """What a step finds, or `{"error": ...}`."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    try:
        found = STEPS[step](path)
    except Exception as error:  # any is a result
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"[:400].replace(f"{path.parent}/", "")}
    worst = next(value for key, value in found.items() if key.startswith("error_of"))
    good = worst <= TOLERANCE or found.get("rounding")
    return found if good else {**found, "error": f"differs by {worst:.1e}"}


class Results:
    """What is known, by step and file, in a file of its own that grows line by line."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, {}
        for line in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(line)
            self.known[row["step"], row["name"]] = row

    def add(self, step: str, name: str, found: Found) -> None:
        """Keep and show it."""
        row = self.known[step, name] = {"step": step, "name": name, **found}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)


def summary(results: Results, steps: Sequence[str], names: Sequence[str]) -> str:
    """A line for each step, and a table of what failed."""
    lines, failed = [], []
    for step in steps:
        rows = [results.known[step, name] for name in names if (step, name) in results.known]
        good = [row for row in rows if "error" not in row]
        exact = [row for row in good if not row.get("rounding")]
        worst = max((v for row in exact for k, v in row.items() if k.startswith("error_of")), default=0.0)
        lines.append(f"{step}: {len(exact)} of {len(rows)} exports within {TOLERANCE:g}, worst of these {worst:.1e}.")
        if len(exact) < len(good):
            why = f"no further from double precision than {ROUNDING} times what onnxruntime is"
            why = f"within {EXACT:g} in double precision" if step == "compile" else why
            lines[-1] += f" {len(good) - len(exact)} more are {why}."
        failed += [f"| {row['name']} | {step} | {_brief(row['error'])} |" for row in rows if "error" in row]
    table = "\n".join(["| export | step | why not |", "|---|---|---|", *failed])
    made = "Made by `python tools/zoo_to_torch.py`, which says what the steps are."
    return "\n\n".join(["# to_torch on the zoo", made, *lines, table])


def _brief(error: str) -> str:
    """Without colours and addresses, in one cell."""
    return re.sub(r"\x1b\[[0-9;]*m| at 0x[0-9a-f]+", "", error).replace("|", "/")[:160]


def main() -> int:
    """Run what is missing, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the exports")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--only", default="*", metavar="PATTERN", help="files whose name this matches")
    parser.add_argument("--once", action="store_true", help="one export of each network")
    parser.add_argument("--fresh", action="store_true", help="forget what is known of these files")
    parser.add_argument("--jobs", type=int, default=1, help="files at the same time, one core each")
    parser.add_argument("--seconds", type=int, default=300, help="limit per step of a file")
    parser.add_argument("--memory-gib", type=int, default=14, help="limit of address space per step")
    parser.add_argument("--table-only", action="store_true", help="show what is known, run nothing")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(take(args.one[0], Path(args.one[1]))))
        return 0
    files = {path.stem: path for path in sorted(args.cache.glob("*.onnx"))}
    names = [name for name in files if fnmatch.fnmatch(name, f"*{args.only.strip('*')}*")]
    if args.once:
        names = list({".".join(name.split(".")[:2]): name for name in reversed(names)}.values())[::-1]
    results = Results(args.cache / RESULTS)
    limits = Limits(args.seconds, args.memory_gib)

    def run(name: str) -> None:
        for step in args.steps:
            known = results.known.get((step, name))
            if args.fresh or known is None or "error" in known:
                command = [sys.executable, __file__, "--cache", str(args.cache), "--one", step, str(files[name])]
                results.add(step, name, limited(command, limits))

    if not args.table_only:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(run, names))
    print(summary(results, args.steps, names))
    return int(any("error" in results.known.get((step, name), {}) for step in args.steps for name in names))


if __name__ == "__main__":
    sys.exit(main())
