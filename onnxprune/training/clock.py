"""Wall-clock time of a run."""

import time

from onnxprune.training.settings import Settings


class Clock:
    """Wall-clock seconds of a run, over all its sittings."""

    def __init__(self, step: int, seconds: float) -> None:
        self.first, self.earlier = step, seconds
        self.began = self.last_save = time.monotonic()

    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def left(self, step: int, steps: int) -> float:
        return (time.monotonic() - self.began) / (step - self.first) * (steps - step)

    def due(self, settings: Settings) -> bool:
        return time.monotonic() - self.last_save > settings.checkpoint_seconds

    def saved(self) -> None:
        self.last_save = time.monotonic()
