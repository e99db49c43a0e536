"""What runs through a model at some point of it, batch by batch: in memory while there is room, else on disk."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from onnxprune.errors import OutputError

ROOM = 1 << 30
"""Bytes of one store that may stay in memory."""


class Store:
    """Values by name per batch. A context manager: what lies on disk goes with it."""

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.used = room, 0
        self.batches: dict[int, dict[str, np.ndarray | Path]] = {}
        self.folder: Path | None = None
        self.written = 0

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        found = self.batches[batch]
        return {name: np.load(value) if isinstance(value, Path) else value for name, value in found.items()}

    def step(self, batch: int, made: Mapping[str, np.ndarray], live: Iterable[str]) -> None:
        """Adds what was made of this batch, and lets go of what is not live any more. Raises OutputError where the
        disk is full.
        """
        held, wanted = self.batches.setdefault(batch, {}), set(live)
        for name in [name for name in held if name not in wanted]:
            value = held.pop(name)
            if isinstance(value, Path):
                value.unlink(missing_ok=True)
            else:
                self.used -= value.nbytes
        for name, value in made.items():
            if name in wanted and name not in held:
                held[name] = self._kept(value)

    def _kept(self, value: np.ndarray) -> np.ndarray | Path:
        if value.dtype.hasobject or self.used + value.nbytes <= self.room:  # texts are few, and no plain file
            self.used += value.nbytes
            part = isinstance(value.base, np.ndarray) and value.base.nbytes > value.nbytes
            return value.copy() if part else value
        try:
            if self.folder is None:
                self.folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
            path = self.folder / f"{self.written}.npy"
            self.written += 1
            np.save(path, value)
        except OSError as error:
            raise OutputError(
                f"{self.folder or tempfile.gettempdir()}: activations of the calibration inputs cannot be written "
                f"({error.strerror}); free space, set TMPDIR to another place, or give fewer --samples"
            ) from None
        return path
