"""`onnxprune.train`: from a plain or gated model file to a trained gated one."""

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune import gates
from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.errors import LawError, PlanError, TrainingError
from onnxprune.groups import find
from onnxprune.training.data import Data, from_arrays
from onnxprune.training.data import load as load_data
from onnxprune.training.settings import Report, Settings
from onnxprune.training.unfolding import fold, unfold
from onnxprune.verify import verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained gated model and how it does."""

    model: onnx.ModelProto
    output: str | None
    epochs: int
    asked: float
    by: str
    reached: float
    before: Mapping[str, float]
    """Metrics of the original model on the held-out samples, the task's main metric first."""
    after: Mapping[str, float]
    seconds: float
    run_dir: str | None

    def to_json(self) -> dict[str, Any]:
        facts = {
            f: getattr(self, f) for f in ("output", "epochs", "asked", "by", "reached", "seconds", "run_dir")
        }
        return {**facts, "metrics": {"before": dict(self.before), "after": dict(self.after)}}


@dataclass(frozen=True)
class Request:
    """Everything a run was called with, kept beside its checkpoints so that `resume` needs nothing else."""

    model: str
    data: str
    validation: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    output: str | None
    fingerprint: int
    """CRC-32 of the model file, so that a run is not resumed on another one."""


DataLike = str | Path | Mapping[str, Any]


def train(
    model: str | Path | onnx.ModelProto,
    data: DataLike,
    output: str | Path | None = None,
    *,
    settings: Settings | None = None,
    validation: DataLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: Report | None = None,
    resume: bool = False,
    force: bool = True,
    **options: Any,
) -> Trained:
    """Trains the gates and weights of a model together until `ratio` of `by` is kept, and on with the gates
    frozen.

    `model` may be plain; it is gated first. `data` is a path (`.npz`, folder of images) or arrays by input
    name, with labels in `y`; without labels the original model is the teacher. `options` are fields of
    `Settings` (`ratio=0.5, by="macs", epochs=10, ...`). Metrics are measured on `validation`, or on a
    held-out share of `data`. Raises ModelError, DataError, TrainingError, PlanError, OutputError.
    """
    settings = replace(settings or Settings(), **_known(options))
    if not 0 < settings.ratio <= 1:
        raise PlanError(
            f"ratio {settings.ratio} is not in (0, 1]; it is the fraction that is kept, such as 0.5"
        )
    if output is not None:
        files.writable(output, force=force)
    loaded = files.load(model)
    samples = _data(data, loaded, mean, std)
    held_out = None if validation is None else _data(validation, loaded, mean, std)
    latents = gates.strip(loaded)
    groups = find(loaded)
    if not groups.groups:
        raise PlanError(f"{loaded.where}: nothing can be pruned; onnxprune inspect says why")
    costs, original = CostModel(groups), files.to_proto(loaded)
    gates.insert(groups, latents)
    gated = files.to_proto(loaded)
    unfolded = unfold(gated, samples) if settings.unfold else None
    from onnxprune.training import train as run  # torch comes with it

    outcome = run(
        unfolded or gated, costs, samples, settings, validation=held_out, teacher=original, progress=progress,
        context=_context(model, data, validation, mean, std, output), resume=resume,
    )  # fmt: skip
    for warning in outcome.warnings:
        log.warning("%s", warning)
    trained = _folded(outcome.model) if unfolded else outcome.model
    trained.metadata_props.add(key=gates.TRAINED_KEY, value=f"{settings.ratio} {settings.by}")
    if output is not None:
        files.save(trained, output, force=force)
    return Trained(
        trained, str(output) if output else None, outcome.epochs, outcome.asked, outcome.by, outcome.reached,
        outcome.before, outcome.after, outcome.seconds, outcome.run_dir,
    )  # fmt: skip


def _folded(unfolded: onnx.ModelProto) -> onnx.ModelProto:
    """What was unfolded for training, folded again. Raises LawError where that is another function."""
    trained = fold(unfolded)
    check = verify(unfolded, trained)
    if not check.equal:
        raise LawError(
            f"folding BatchNorm away again changed the function by {check.max_rel_error:.1e} of the largest output; "
            f"train with unfold=False, and please report the model"
        )
    return trained


def _known(options: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = set(options) - set(asdict(Settings()))
    if unknown:
        raise TrainingError(
            f"setting {min(unknown)!r} is unknown; the settings are {', '.join(asdict(Settings()))}"
        )
    return options


def _data(
    data: DataLike, model: files.Model, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Data:
    dims = [
        tuple(n if isinstance(n, int) and n > 0 else None for n in t.shape or ()) for t in model.graph.inputs
    ]
    inputs = [(t.name, np.dtype(t.dtype), shape) for t, shape in zip(model.graph.inputs, dims, strict=True)]
    if isinstance(data, str | Path):
        return load_data(data, inputs, mean=mean, std=std)
    return from_arrays(data, inputs, mean=mean, std=std)


def _context(
    model: str | Path | onnx.ModelProto, data: DataLike, validation: DataLike | None,
    mean: Sequence[float] | None, std: Sequence[float] | None, output: str | Path | None,
) -> dict[str, Any] | None:  # fmt: skip
    """What `resume_request` reads back; None where the call cannot be repeated from files alone."""
    paths = (model, data) if validation is None else (model, data, validation)
    if not all(isinstance(path, str | Path) for path in paths):
        return None
    absolute = [str(Path(str(path)).resolve()) for path in paths]
    return asdict(
        Request(
            absolute[0], absolute[1], absolute[2] if validation is not None else None, mean, std,
            str(Path(output).resolve()) if output else None, zlib.crc32(Path(absolute[0]).read_bytes()),
        )
    )  # fmt: skip


def resume_request(run_dir: str | Path) -> tuple[Request, Settings]:
    """What an interrupted run was called with. Raises TrainingError where the folder holds none."""
    path = Path(run_dir) / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        request, settings = Request(**stored["context"]), Settings.of(stored["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainingError(
            f"{run_dir}: holds no run that can be resumed; give the --run-dir of an interrupted train"
        ) from None
    if (
        not Path(request.model).is_file()
        or zlib.crc32(Path(request.model).read_bytes()) != request.fingerprint
    ):
        raise TrainingError(
            f"{run_dir}: its model {request.model} is gone or has changed; start the training anew"
        )
    return request, replace(settings, run_dir=str(run_dir))
