"""The gates of a torch module as one flat vector, group after group."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxprune import gates
from onnxprune import model as files
from onnxprune.errors import TrainingError
from onnxprune.gates import PREFIX
from onnxprune.groups import Groups, find


@dataclass(frozen=True)
class Parameters:
    """The parameters `gate/<group>` of a module, in the order of the groups."""

    tensors: tuple[Tensor, ...]

    @staticmethod
    def of(module: nn.Module, sizes: Mapping[str, int]) -> "Parameters":
        """The module's gates, `sizes` by group name, which train; whatever else the gates are laid out with does not.

        Raises TrainingError where the gates are not those of the groups.
        """
        state = module.state_dict(keep_vars=True)
        found = []
        for name, size in sizes.items():
            tensor = state.get(PREFIX + name)
            if tensor is None or tensor.shape != (size,):
                shape = "no gate" if tensor is None else f"a gate of {tensor.numel()} channels"
                raise TrainingError(
                    f"the model has {shape} for group {name!r} of {size} channels: gate the model anew"
                )
            found.append(tensor)
        for key, tensor in state.items():  # such as the ones of channels that no gate decides over
            if key.startswith(PREFIX) and not any(tensor is latent for latent in found):
                tensor.requires_grad_(False)
        return Parameters(tuple(found))

    def read(self) -> NDArray[np.float32]:
        return torch.cat([t.detach() for t in self.tensors]).float().cpu().numpy()

    def write(self, w: NDArray[np.float32]) -> None:
        values = torch.from_numpy(w).to(self.tensors[0].device)
        sizes = [len(tensor) for tensor in self.tensors]
        with torch.no_grad():
            for tensor, value in zip(self.tensors, torch.split(values, sizes), strict=True):
                tensor.copy_(value)

    def take_gradients(self) -> NDArray[np.float32]:
        """The gradients, flat, which are then cleared; 0 where the loss did not depend on a gate."""
        flat = [torch.zeros_like(t) if t.grad is None else t.grad for t in self.tensors]
        taken = torch.cat(flat).float().cpu().numpy()
        for tensor in self.tensors:
            tensor.grad = None
        return taken

    def freeze(self) -> None:
        for tensor in self.tensors:
            tensor.grad = None
            tensor.requires_grad_(False)


def groups_of(gated: onnx.ModelProto) -> Groups:
    """The channel groups of a gated model's original."""
    loaded = files.load(gated)
    gates.strip(loaded)
    return find(loaded)
