"""What runs on a case, each step in a process of its own: export, onnxprune, and the peers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo_models.case import Case
from zoo_models.table import TRANSIENT

Step = Callable[[Case, Path, float], dict[str, Any]]


def export(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """Writes the file and runs it in onnxruntime: what does not run there is no row for a tool to fail on."""
    del ratio
    from zoo_models.export import export as write

    started = time.perf_counter()
    feeds = write(case, path)
    seconds = time.perf_counter() - started

    import onnx

    _run(path, feeds)
    model = onnx.load(path)
    return {
        "nodes": len(model.graph.node),
        "opsets": {entry.domain: entry.version for entry in model.opset_import},
        "file_mib": path.stat().st_size / 2**20,
        "export_seconds": round(seconds, 1),
    }


def _run(path: Path, feeds: list[np.ndarray] | None) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    if feeds is None:
        shapes = [
            [size if isinstance(size, int) else 2 for size in one.shape] for one in session.get_inputs()
        ]
        feeds = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in shapes]
    for output in session.run(None, dict(zip(names, feeds, strict=True))):
        if isinstance(output, np.ndarray) and output.dtype.kind == "f" and not np.isfinite(output).any():
            raise ArithmeticError("an output holds no finite number")


def onnxprune(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """Slims the file to half of its channels, proven equal to the gated model; and what is frozen, why.

    Channels may be of any number, as Torch-Pruning and onnxsim leave them: by default onnxprune keeps a number that
    kernels like.
    """
    del case
    import onnxruntime  # noqa: F401 - its libraries are not the model's memory

    import onnxprune as package

    before = peak_mib()
    started = time.perf_counter()
    try:
        result = package.slim(path, ratio=ratio, by="channels", multiple_of=1).to_json()
        found: dict[str, Any] = {
            "channels_kept": result["kept"]["channels"],
            "macs_kept": result["kept"]["macs"],
            "params_kept": result["kept"]["params"],
            "max_rel_error": result["verified"]["max_rel_error"],
            "verified": result["verified"],
            "core_seconds": result["seconds"],
            "slim_seconds": time.perf_counter() - started,
            "peak_mib": peak_mib(),
            "peak_above_mib": peak_mib() - before,
            "frozen_by_check": result["frozen"],
        }
    except package.OnnxpruneError as error:
        found = {"error": f"{type(error).__name__}: {error}"[:600]}
    except Exception as error:  # a crash is a row of the table as well
        import traceback

        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        found = {"error": f"{type(error).__name__}: {error} ({place})"[:600]}
    if "error" in found:
        found["original_runs"] = _runs_by_itself(path)
    try:
        facts = package.inspect(path).to_json()
    except Exception as error:
        return {"inspect_error": f"{type(error).__name__}: {error}"[:600], **found}
    live = sum(group["size"] for group in facts["groups"] if group["prunable"])
    frozen = sum(group["size"] for group in facts["groups"] if not group["prunable"])
    return {
        "groups": sum(group["prunable"] for group in facts["groups"]),
        "frozen_share": frozen / max(live + frozen, 1),
        "frozen": facts["frozen"][:6],
        **found,
    }


def _runs_by_itself(path: Path) -> bool:
    """Whether the file runs on the inputs that onnxprune draws: if not, there was nothing to compare."""
    from onnxprune.session import open_session, random_inputs

    try:
        session = open_session(path)
        for batch in (2, 3):
            session.run(None, random_inputs(session, batch=batch, seed=batch))
    except Exception:
        return False
    return True


def peak_mib() -> float:
    """Of this process alone: getrusage would count the parent's memory from before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def torch_pruning(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """Torch-Pruning with its defaults."""
    from zoo_models import peers

    return peers.torch_pruning(case, path, ratio, with_heads=False)


def torch_pruning_heads(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """Torch-Pruning told where the attention heads are."""
    from zoo_models import peers

    return peers.torch_pruning(case, path, ratio, with_heads=True)


def onnxsim(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """What onnxsim makes of the same file."""
    from zoo_models import peers

    return peers.onnxsim(case, path, ratio)


STEPS: dict[str, Step] = {
    "export": export, "onnxprune": onnxprune, "torch_pruning": torch_pruning,
    "torch_pruning_heads": torch_pruning_heads, "onnxsim": onnxsim,
}  # fmt: skip


def take(step: str, case: Case, folder: Path, ratio: float) -> dict[str, Any]:
    """What a step finds, or `{"error": ...}`."""
    try:
        found = STEPS[step](case, folder / f"{case.name}.onnx", ratio)
    except Exception as error:  # exporters and peers raise anything; it is a result
        found = {"error": told(error)}
    if "error" in found:
        found["error"] = found["error"].replace(f"{folder}/", "")
    return found


def told(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = lines[0] if lines[0].startswith(TRANSIENT) else f"{type(error).__name__}: {lines[0]}"
    return text[:600]
