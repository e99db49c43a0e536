"""What a run leaves on disk, and how it is taken up again.

run/config.json              settings, and the caller's context
run/metrics.jsonl            one line per report and per epoch
run/checkpoint.safetensors   weights, statistics, gates, momentum; replaced as a whole, never half-written
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onnxprune.errors import OutputError, TrainingError
from onnxprune.training.settings import Settings

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.safetensors"


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
        for name in (CONFIG, CHECKPOINT):
            if not (folder.path / name).exists():
                raise TrainingError(f"{path}: has no {name}: there is no run to resume here, start one anew")
        return folder

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

    def rewind(self, step: int) -> None:
        """Drop the reports of steps after `step`: they will be made again."""
        path = self.path / METRICS
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self._replace(METRICS, "".join(line + "\n" for line in kept).encode())

    def _replace(self, name: str, content: bytes) -> None:
        new = self.path / (name + ".new")
        new.write_bytes(content)
        new.replace(self.path / name)
