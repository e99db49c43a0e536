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
from onnxprune.cost import BY, CostModel
from onnxprune.errors import LawError, PlanError, TrainingError
from onnxprune.groups import find
from onnxprune.recovery.ranking import Ranking
from onnxprune.training.data import Data, Preprocessing, from_arrays
from onnxprune.training.data import load as load_data
from onnxprune.training.functions import is_function
from onnxprune.training.settings import Outcome, Report, Settings
from onnxprune.training.unfolding import fold, unfold
from onnxprune.verify import verify

log = logging.getLogger(__name__)


DataLike = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A trained gated model and how it does."""

    model: onnx.ModelProto
    output: str | None
    epochs: int
    asked: float
    by: str
    reached: float
    kept: Mapping[str, float]
    """The fractions of channels, params and macs that are left."""
    before: Mapping[str, float]
    """Metrics of the original model on the held-out samples, the task's main metric first."""
    after: Mapping[str, float]
    seconds: float
    run_dir: str | None
    main: bool = True
    """Whether this is the process that writes; of several that train together one does."""

    def to_json(self) -> dict[str, Any]:
        names = ("output", "epochs", "asked", "by", "reached", "kept", "seconds", "run_dir")
        facts = {name: getattr(self, name) for name in names}
        return {**facts, "metrics": {"before": dict(self.before), "after": dict(self.after)}}


@dataclass(frozen=True)
class Request:
    """Everything a run was called with, kept beside its checkpoints so that `--resume` needs nothing else."""

    model: str
    data: str
    validation: str | None
    preprocessing: Preprocessing
    output: str | None = None
    fingerprint: int = 0
    """CRC-32 of the model file, so that a run is not resumed on another one; likewise `teacher_fingerprint`."""
    teacher: str | None = None
    """The original's file, where it is another than the model's."""
    teacher_fingerprint: int = 0

    @staticmethod
    def of(run_dir: str | Path) -> "tuple[Request, Settings]":
        """What an interrupted run was called with. Raises TrainingError where the folder holds none."""
        path = Path(run_dir) / "config.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            context, settings = dict(stored["context"]), Settings.of(stored["settings"])
            request = Request(**{**context, "preprocessing": Preprocessing(**context["preprocessing"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise TrainingError(
                f"{run_dir}: holds no run that can be resumed; give the --run-dir of an interrupted train"
            ) from None
        models = {request.model: request.fingerprint, request.teacher: request.teacher_fingerprint}
        for file, fingerprint in models.items():
            if file is not None and (not Path(file).is_file() or _crc(file) != fingerprint):
                raise TrainingError(
                    f"{run_dir}: its model {file} is gone or has changed; start the training anew"
                )
        return request, replace(settings, run_dir=str(run_dir))


def train(
    model: str | Path | onnx.ModelProto,
    data: DataLike,
    output: str | Path | None = None,
    *,
    settings: Settings | None = None,
    validation: DataLike | None = None,
    teacher: str | Path | onnx.ModelProto | None = None,
    preprocessing: Preprocessing | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: Report | None = None,
    resume: bool = False,
    force: bool = True,
    **options: Any,
) -> Trained:
    """Trains the gates and weights of a model together until `ratio` of `by` is kept, and on with the gates
    frozen.

    `model` may be plain; it is gated first. `teacher` is the original that is learned from and compared with: `model`
    itself with all gates open, unless given, as it must be where `slim` repaired the weights of `model` to make up for
    gates that are closed. `data` is a path (`.npz`, folder of images, ..., see
    `onnxprune.training.data.load`) or arrays by input name, with labels in `y`; without labels the original model is
    the teacher. `options` are fields of `Settings` (`ratio=0.5, by="macs", epochs=10, ...`), `mean` and `std` short
    for a `preprocessing`. Metrics are measured on `validation`, or on a held-out share of `data`. Under `torchrun` or
    `accelerate launch` all processes train one model, and the main one writes it. Raises ModelError, DataError,
    TrainingError, PlanError, OutputError.
    """
    settings = replace(settings or Settings(), **_known(options))
    if not 0 < settings.ratio <= 1:
        raise PlanError(
            f"ratio {settings.ratio} is not in (0, 1]; it is the fraction that is kept, such as 0.5"
        )
    if output is not None:
        files.writable(output, force=force)
    asked = preprocessing or Preprocessing(mean, std)
    loaded = files.load(model)
    samples = _data(data, loaded, asked)
    held_out = None if validation is None else _data(validation, loaded, asked)
    if described := samples.describe():
        log.info("%s", described)
    latents = gates.strip(loaded)
    groups = find(loaded)
    if not groups.groups:
        raise PlanError(f"{loaded.where}: nothing can be pruned; onnxprune inspect says why")
    costs = CostModel(groups)
    original = files.to_proto(loaded) if teacher is None else _teacher(teacher, loaded)
    ranking = (
        Ranking(files.export(loaded), costs.names, settings.seed)
        if settings.ranking == "sensitivity"
        else None
    )
    gates.insert(groups, latents)
    gated = files.to_proto(loaded)
    unfolded = unfold(gated, samples) if settings.unfold else None
    from onnxprune.training import train as run  # torch comes with it

    outcome = run(
        unfolded or gated, costs, samples, settings, validation=held_out, teacher=original, ranking=ranking,
        progress=progress, context=_context(model, data, validation, teacher, asked, output), resume=resume,
    )  # fmt: skip
    for warning in outcome.warnings:
        log.warning("%s", warning)
    trained = _folded(outcome.model) if unfolded else outcome.model
    trained.metadata_props.add(key=gates.TRAINED_KEY, value=f"{settings.ratio} {settings.by}")
    if output is not None and outcome.main:
        files.save(trained, output, force=force)
    return _summed_up(outcome, trained, output, costs)


def _summed_up(
    outcome: Outcome, trained: onnx.ModelProto, output: str | Path | None, costs: CostModel
) -> Trained:
    counts = [outcome.kept[name] for name in costs.names]
    return Trained(
        trained, str(output) if output else None, outcome.epochs, outcome.asked, outcome.by, outcome.reached,
        {by: float(costs.fraction(by, counts)) for by in BY}, outcome.before, outcome.after, outcome.seconds,
        outcome.run_dir, outcome.main,
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


def _data(data: DataLike, model: files.Model, asked: Preprocessing) -> Data:
    dims = [
        tuple(n if isinstance(n, int) and n > 0 else None for n in t.shape or ()) for t in model.graph.inputs
    ]
    inputs = [(t.name, np.dtype(t.dtype), shape) for t, shape in zip(model.graph.inputs, dims, strict=True)]
    if isinstance(data, str | Path):
        return load_data(data, inputs, preprocessing=asked)
    return from_arrays(data, inputs, preprocessing=asked)


def _teacher(teacher: str | Path | onnx.ModelProto, model: files.Model) -> onnx.ModelProto:
    """The original, which must take and give what the model does. Raises ModelError, TrainingError."""
    original = files.load(teacher)
    gates.strip(original)
    for what in ("inputs", "outputs"):
        ours, theirs = ([value.name for value in getattr(one.graph, what)] for one in (model, original))
        if ours != theirs:
            raise TrainingError(
                f"{original.where}: its {what} are {', '.join(theirs)}, those of {model.where} {', '.join(ours)}; give "
                "the model that it was pruned from"
            )
    return files.to_proto(original)


def _context(
    model: str | Path | onnx.ModelProto, data: DataLike, validation: DataLike | None,
    teacher: str | Path | onnx.ModelProto | None, asked: Preprocessing, output: str | Path | None,
) -> dict[str, Any] | None:  # fmt: skip
    """What `Request.of` reads back; None where the call cannot be repeated from files alone."""
    given = (path for path in (model, data, validation, teacher) if path is not None)
    if not all(isinstance(path, str | Path) for path in given):
        return None
    network, samples = (_absolute(str(path)) for path in (model, data))
    held_out, original = (None if path is None else _absolute(str(path)) for path in (validation, teacher))
    to = str(Path(output).resolve()) if output else None
    taught = 0 if original is None else _crc(original)
    return asdict(Request(network, samples, held_out, asked, to, _crc(network), original, taught))


def _absolute(source: str) -> str:
    """A path from the root; `module:function` as it is."""
    return source if is_function(Path(source)) else str(Path(source).resolve())


def _crc(path: str) -> int:
    return zlib.crc32(Path(path).read_bytes())
