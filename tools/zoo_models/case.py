"""What one row of the zoo is: which network, by which exporter, in which form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TORCH_EXPORTERS = ("dynamo", "torchscript")


@dataclass(frozen=True)
class Case:
    """`Case("timm", "vit_tiny", "dynamo", 20).name == "timm.vit_tiny.dynamo.20.static"`."""

    family: str
    model: str
    exporter: str
    opset: int
    form: str = "static"
    """static | dynamic (batch) | free (batch, and sequence or image size)"""

    @property
    def name(self) -> str:
        return f"{self.family}.{self.model}.{self.exporter}.{self.opset}.{self.form}"

    @property
    def network(self) -> tuple[str, str]:
        """What all forms of one network have in common."""
        return self.family, self.model

    @property
    def torch(self) -> bool:
        """Whether there is a torch module behind it."""
        return self.exporter in TORCH_EXPORTERS

    @staticmethod
    def named(name: str) -> "Case":
        """The case of a name."""
        family, rest = name.split(".", 1)
        model, exporter, opset, form = rest.rsplit(".", 3)
        return Case(family, model, exporter, int(opset), form)


@dataclass(frozen=True)
class Network:
    """A torch module ready for export, and how to call it."""

    module: "torch.nn.Module"
    sample: Callable[[int], tuple["torch.Tensor", ...]]
    """Positional inputs for a batch size."""
    free: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    """Axes other than the batch that the form `free` leaves open: input -> axis -> name."""
    batch: Mapping[int, int] = field(default_factory=dict)
    """Where an input's batch is not its axis 0."""

    def open_axes(self, form: str) -> list[dict[int, str]]:
        """Axes that are dynamic in a form, for each input."""
        count = len(self.sample(1))
        if form == "static":
            return [{} for _ in range(count)]
        more: Mapping[int, Mapping[int, str]] = self.free if form == "free" else {}
        return [{self.batch.get(i, 0): "batch", **more.get(i, {})} for i in range(count)]
