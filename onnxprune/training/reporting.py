"""What a run tells on its way: lines of metrics for its folder, and progress for whoever watches."""

from collections.abc import Mapping
from typing import Any

from onnxprune.training.run_folder import RunFolder
from onnxprune.training.settings import Progress, Report


class Reporter:
    """`history` has an entry for each epoch; `folder` and `progress` may be None."""

    def __init__(self, epochs: int, steps: int, progress: Report | None) -> None:
        self.epochs, self.steps, self.progress = epochs, steps, progress
        self.folder: RunFolder | None = None
        self.before: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []

    def tell(self, entry: Mapping[str, Any], left: float, *, end_of_epoch: bool) -> None:
        """`entry` has step, epoch, loss, lr, reached, rho, shares, frozen, seconds, and metrics where measured."""
        if end_of_epoch:
            self.history.append(dict(entry))
        if self.folder is not None:
            self.folder.report(entry)
        if self.progress is not None:
            self.progress(
                Progress(
                    epoch=entry["epoch"],
                    epochs=self.epochs,
                    step=entry["step"],
                    steps=self.steps,
                    loss=entry["loss"],
                    metrics=self.metrics,
                    reached=entry["reached"],
                    rho=entry["rho"],
                    shares=entry["shares"],
                    frozen=entry["frozen"],
                    eta=left,
                )
            )

    def close(self) -> None:
        """The last has been told."""
        if self.folder is not None:
            self.folder.close()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last that were measured."""
        found: Mapping[str, float]
        found = next((e["metrics"] for e in reversed(self.history) if "metrics" in e), self.before)
        return found
