"""The module that trains: the gated model at first, and after the freeze the same without its closed channels."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune import to_torch
from onnxprune.errors import TrainingError
from onnxprune.methods.method import Method
from onnxprune.training.average import Average
from onnxprune.training.batches import Batch
from onnxprune.training.evaluate import outputs_and_values, outputs_of
from onnxprune.training.features import Features
from onnxprune.training.latents import Parameters
from onnxprune.training.masks import as_it_is, put
from onnxprune.training.optimizer import memory_of, optimizer_of, remember
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
        method: Method,
        layout: Layout,
        sizes: Mapping[str, int],
        features: Features,
    ) -> None:
        self.features = features
        self.gated, self.settings, self.layout, self.sizes = gated, settings, layout, sizes
        self.method = method
        self.module = layout(to_torch.load(gated, gate_value=as_it_is, also=features.names))
        self.latents = Parameters.of(self.module, sizes)
        self.optimizer = optimizer_of(self.module, self.latents, settings)
        self.shrunk: Shrunk | None = None
        self.average: Average | None = None
        self._compiled: tuple[nn.Module, nn.Module] | None = None

    def put_masks(self) -> None:
        """Once the method knows the module's tensors."""
        put(self.module, self.method, self.sizes)

    def run(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The training module's floating-point outputs, and the values of `features` without closed channels."""
        outputs, values = outputs_and_values(self.forward, batch)
        if values and self.shrunk is None:
            values = self.features.masked(values, torch.cat(self.latents.tensors).detach())
        return outputs, values

    @property
    def forward(self) -> nn.Module:
        """The module as it is called in training."""
        if not self.settings.compile:
            return self.module
        if self._compiled is None or self._compiled[0] is not self.module:
            # on a CPU slower than eager with layouts of its own, see to_torch/README.md
            own = {} if self.latents.tensors[0].is_cuda else {"options": {"layout_optimization": False}}
            self._compiled = self.module, torch.compile(self.module, **own)  # type: ignore[call-overload]
        return self._compiled[1]

    @property
    def evaluated(self) -> fx.GraphModule:
        """The module whose weights are evaluated and written: their running mean, where one is kept."""
        return self.module if self.average is None else self.average.mean  # type: ignore[return-value]

    def frozen(self, batch: Batch) -> None:
        """The gates are frozen: train on without what they close, and keep the weights' mean from here on."""
        if self.settings.shrink:
            self._shrink(batch)
        if self.settings.ema:
            mean = self.layout(to_torch.load(self.gated if self.shrunk is None else self.shrunk.model))
            self.average = Average(mean, self.module, self.settings.ema)

    def _shrink(self, batch: Batch) -> None:
        """From here on train without the closed channels, if on `batch` that computes the same."""
        shrunk = shrink(to_torch.write_back(self.module, self.gated), self.module)
        if shrunk is None:
            return
        small, training = (
            self.layout(to_torch.load(shrunk.model, also=self.features.names)),
            self.module.training,
        )
        shrunk.carry(self.module.state_dict(), small.state_dict())
        with torch.no_grad():
            same = alike(outputs_of(self.module.eval(), batch), outputs_of(small, batch))
        self.module.train(training)
        if not same:
            log.warning("training on with closed channels, which is slower: without them the outputs differ")
            return
        optimizer = optimizer_of(small, self.latents, self.settings)
        memory = memory_of(self.module, self.optimizer)
        remember(small, optimizer, {kind: shrunk.of(tensors) for kind, tensors in memory.items()})
        before, after = (sum(p.numel() for p in m.parameters()) for m in (self.module, small))
        log.info("training on without the closed channels: %d of %d parameters", after, before)
        self.module, self.optimizer, self.shrunk = small.train(training), optimizer, shrunk

    def written(self, w: np.ndarray) -> onnx.ModelProto:
        """The gated model as trained, with latents `w`; weights that only closed channels use are as they came."""
        whole = to_torch.load(self.gated)
        if self.shrunk is None:
            state = self.evaluated.state_dict()
            with torch.no_grad():
                for name, tensor in whole.state_dict().items():
                    tensor.copy_(state[name])
        else:
            self.shrunk.carry_back(self.evaluated.state_dict(), whole.state_dict())
        Parameters.of(whole, self.sizes).write(w)
        return to_torch.write_back(whole, self.gated)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold; the tensors that training changes, not copies."""
        held = {f"module/{name}": tensor for name, tensor in self.module.state_dict().items()}
        for kind, values in memory_of(self.module, self.optimizer).items():
            held |= {f"{kind}:{name}": tensor for name, tensor in values.items()}
        return held | (self.average.tensors() if self.average else {})

    def restore(self, tensors: Mapping[str, Tensor], averaged: int) -> None:
        """Put a checkpoint's tensors back, the mean after so many steps; TrainingError where it is of another model."""
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                stored = tensors.get(f"module/{name}")
                if stored is None or stored.shape != tensor.shape:
                    raise TrainingError(
                        f"the checkpoint does not fit the model: {name!r} differs: start the run anew"
                    )
                tensor.copy_(stored)
        remember(self.module, self.optimizer, _memory(tensors, list(self.module.state_dict())))
        if self.average is not None:
            self.average.restore(tensors, averaged)


def _memory(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, colon, name = key.partition(":")
        if colon and "/" not in kind and name in names:
            found.setdefault(kind, {})[name] = tensor
    return found
