"""The module that trains: the gated model at first, and after the freeze the same without its closed channels."""

import logging
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from onnxprune import to_torch
from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.latents import Latents
from onnxprune.training.optimizer import momenta, optimizer_of, set_momenta
from onnxprune.training.settings import Settings
from onnxprune.training.shrinking import Shrunk, alike, shrink

log = logging.getLogger(__name__)

Layout = Callable[[fx.GraphModule], fx.GraphModule]
"""Brings a module to the training device and memory format."""


class Student:
    """The training module with its optimizer and its latents; `layout` is applied to every module made here."""

    def __init__(
        self,
        gated: onnx.ModelProto,
        settings: Settings,
        gate_value: Callable[[Tensor], Tensor],
        layout: Layout,
        names: Mapping[str, int],
    ) -> None:
        self.gated, self.settings, self.layout, self.names = gated, settings, layout, names
        self.module = layout(to_torch.load(gated, gate_value=gate_value))
        self.latents = Latents.of(self.module, names)
        self.optimizer = optimizer_of(self.module, self.latents, settings)
        self.shrunk: Shrunk | None = None

    def shrink(self, batch: Batch) -> None:
        """From here on train without the closed channels, if on `batch` that computes the same."""
        shrunk = shrink(to_torch.write_back(self.module, self.gated), self.module)
        if shrunk is None:
            return
        small, training = self.layout(to_torch.load(shrunk.model)), self.module.training
        shrunk.carry(self.module.state_dict(), small.state_dict())
        with torch.no_grad():
            same = alike(outputs_of(self.module.eval(), batch), outputs_of(small, batch))
        self.module.train(training)
        if not same:
            log.warning("training on with closed channels, which is slower: without them the outputs differ")
            return
        optimizer = optimizer_of(small, self.latents, self.settings)
        set_momenta(small, optimizer, shrunk.of(momenta(self.module, self.optimizer)))
        before, after = (sum(p.numel() for p in m.parameters()) for m in (self.module, small))
        log.info("training on without the closed channels: %d of %d parameters", after, before)
        self.module, self.optimizer, self.shrunk = small.train(training), optimizer, shrunk

    def written(self, w: np.ndarray) -> onnx.ModelProto:
        """The gated model as trained, with latents `w`; weights that only closed channels use are as they came."""
        if self.shrunk is None:
            return to_torch.write_back(self.module, self.gated)
        whole = to_torch.load(self.gated)
        self.shrunk.carry_back(self.module.state_dict(), whole.state_dict())
        Latents.of(whole, self.names).write(w)
        return to_torch.write_back(whole, self.gated)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold; the tensors that training changes, not copies."""
        held = {f"module/{name}": tensor for name, tensor in self.module.state_dict().items()}
        return held | {f"momentum/{name}": m for name, m in momenta(self.module, self.optimizer).items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's tensors back; TrainingError where it is of another model."""
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                stored = tensors.get(f"module/{name}")
                if stored is None or stored.shape != tensor.shape:
                    raise TrainingError(
                        f"the checkpoint does not fit the model: {name!r} differs: start the run anew"
                    )
                tensor.copy_(stored)
        prefix = "momentum/"
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        set_momenta(self.module, self.optimizer, found)
