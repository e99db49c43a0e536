"""What a run leaves on disk, and how it is taken up again.

run/config.json              settings, and the caller's context
run/metrics.jsonl            one line per report and per epoch
run/tensorboard/             the same as TensorBoard events
run/checkpoint.safetensors   weights, statistics, gates, momentum; replaced as a whole, never half-written
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tensorboardX import SummaryWriter
from torch import Tensor

from onnxprune.errors import OutputError, TrainingError
from onnxprune.training.settings import Settings

CONFIG, METRICS, CHECKPOINT, EVENTS = "config.json", "metrics.jsonl", "checkpoint.safetensors", "tensorboard"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder; made by `create`, or found by `open`."""

    path: Path

    @staticmethod
    def create(path: str | Path, settings: Settings, context: Mapping[str, Any] | None) -> "RunFolder":
        """Raises OutputError where the folder holds a run already or cannot be written."""
        folder = RunFolder(Path(path))
        if (folder.path / CONFIG).exists():
            raise OutputError(f"{path}: holds a run already: resume it, or give another run folder")
        config = {"settings": dataclasses.asdict(settings), "context": dict(context or {})}
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder._replace(CONFIG, json.dumps(config, indent=1).encode())
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}: give a run folder that can be written") from error
        return folder

    @staticmethod
    def open(path: str | Path) -> "RunFolder":
        """Raises TrainingError where there is no run to resume."""
        folder = RunFolder(Path(path))
        if not (folder.path / CONFIG).exists():
            raise TrainingError(f"{path}: has no {CONFIG}: there is no run to resume here, start one anew")
        return folder

    @property
    def begun(self) -> bool:
        """Whether it holds a checkpoint; a run that was killed before its first one begins again."""
        return (self.path / CHECKPOINT).exists()

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the former one stays until this one is whole."""
        new = self.path / (CHECKPOINT + ".new")
        contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, new, metadata={"state": json.dumps(state)})
            new.replace(self.path / CHECKPOINT)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{self.path}: no checkpoint could be written: {error}: make room there"
            ) from error

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The last checkpoint's tensors and state; TrainingError where it cannot be read."""
        try:
            with safe_open(self.path / CHECKPOINT, framework="pt") as file:
                state: dict[str, Any] = json.loads(file.metadata()["state"])
                return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{self.path / CHECKPOINT}: cannot be read: {error}: start the run anew"
            ) from error

    def report(self, entry: Mapping[str, Any]) -> None:
        """One more line of metrics."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in _scalars(entry):
            self.events.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Nothing more will be reported."""
        if "events" in self.__dict__:
            self.events.close()

    def rewind(self, step: int) -> None:
        """Drop the reports of steps after `step`: they will be made again."""
        path = self.path / METRICS
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self._replace(METRICS, "".join(line + "\n" for line in kept).encode())
        self.__dict__["events"] = self._events(purge_step=step + 1)

    @cached_property
    def events(self) -> SummaryWriter:
        """Where TensorBoard's events go.

        Not torch.utils.tensorboard: that loads TensorFlow where it is installed, whose LLVM and torch's do not go
        together: the process is ended.
        """
        return self._events()

    def _events(self, purge_step: int | None = None) -> SummaryWriter:
        return SummaryWriter(str(self.path / EVENTS), purge_step=purge_step, flush_secs=10)

    def _replace(self, name: str, content: bytes) -> None:
        new = self.path / (name + ".new")
        new.write_bytes(content)
        new.replace(self.path / name)


def _scalars(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a report, by the names TensorBoard groups them by."""
    yield "train/loss", entry["loss"]
    yield "train/lr", entry["lr"]
    yield "budget/target", entry["rho"]
    yield from ((f"budget/{by}", share) for by, share in entry["shares"].items())
    yield from ((f"metrics/{name}", value) for name, value in entry.get("metrics", {}).items())
