"""After the freeze: train on without the closed channels, which is the same function for less work.

The gated model is cut as `slim` cuts it. Which entries of each tensor are left is learnt by cutting a copy whose
tensors hold their own entries' numbers; so weights, statistics and momenta can be carried over, and back at the end.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxprune import gates, rewrite, to_torch
from onnxprune import model as files
from onnxprune.errors import OnnxpruneError, PlanError
from onnxprune.groups import find
from onnxprune.plan import Plan

log = logging.getLogger(__name__)

LARGEST = 1 << 24  # entries of a tensor; float32 holds whole numbers up to here
ALIKE = 1e-4  # of the largest output: more than rounding, and the cut model is not used


@dataclass(frozen=True)
class Shrunk:
    """A model without its closed channels, and by name where its tensors' entries lie in the whole one's."""

    model: onnx.ModelProto
    places: Mapping[str, Tensor]

    def of(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The small model's entries of the whole one's tensors; numbers, of shape (), as they are."""
        kept = {name: place for name, place in self.places.items() if name in whole}
        return {
            name: whole[name].flatten()[place.to(whole[name].device)] if whole[name].dim() else whole[name]
            for name, place in kept.items()
        }

    def carry(self, whole: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> None:
        """From the whole model's tensors into the small one's."""
        with torch.no_grad():
            for name, entries in self.of(whole).items():
                small[name].copy_(entries)

    def carry_back(self, small: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        """From the small model's tensors into the whole one's; the closed channels' entries stay."""
        with torch.no_grad():
            for name, place in self.places.items():
                flat = whole[name].flatten()
                flat[place.flatten().to(flat.device)] = small[name].to(flat.device).flatten()
                whole[name].copy_(flat.view(whole[name].shape))


def shrink(gated: onnx.ModelProto, module: nn.Module) -> Shrunk | None:
    """`gated`, whose latents say what is closed, cut; None where that cannot be told apart exactly.

    `module` is what to_torch.load made of it: its floating-point tensors are those that are carried over.
    """
    whole = _carried(module)
    try:
        cut = _cut(_numbered(gated, whole))
        small = _carried(to_torch.load(cut))
        return Shrunk(cut, {name: _place(numbers, name, whole) for name, numbers in small.items()})
    except OnnxpruneError as error:
        log.warning("training on with closed channels, which is slower: %s", error)
        return None


def alike(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    """Whether two models' outputs are the same but for rounding."""
    return all(
        float((a - b).abs().max()) <= ALIKE * float(a.abs().max().clamp_min(1e-30))
        for a, b in zip(one, other, strict=True)
    )


def _carried(module: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics, by name."""
    return {
        name: tensor
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and tensor.dim() > 0 and not name.startswith(gates.PREFIX)
    }


def _numbered(gated: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> onnx.ModelProto:
    """A copy in which `tensors` hold 0, 1, 2, ..."""
    copy = onnx.ModelProto()
    copy.CopyFrom(gated)
    for initializer in copy.graph.initializer:
        if initializer.name in tensors:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type)
            numbers = np.arange(tensors[initializer.name].numel()).reshape(initializer.dims).astype(dtype)
            initializer.CopyFrom(onnx.numpy_helper.from_array(numbers, initializer.name))
    return copy


def _cut(gated: onnx.ModelProto) -> onnx.ModelProto:
    loaded = files.load(gated)
    latents = gates.strip(loaded)
    groups = find(loaded)
    if {group.name for group in groups} != set(latents) or not all((w > 0).any() for w in latents.values()):
        raise PlanError("the gates are not those of the model's groups, or one has none open")
    rewrite.apply(groups, Plan({name: np.flatnonzero(w > 0) for name, w in latents.items()}))
    return files.to_proto(loaded)


def _place(numbers: Tensor, name: str, whole: Mapping[str, Tensor]) -> Tensor:
    """`numbers` as indices into the whole tensor; PlanError where they are no longer the numbers of its entries."""
    place, size = numbers.round().long(), whole[name].numel() if name in whole else 0
    exact = torch.equal(place.to(numbers.dtype), numbers) and torch.unique(place).numel() == place.numel()
    if not exact or size > LARGEST or place.min() < 0 or place.max() >= size:
        raise PlanError(f"cutting changed the values of {name!r}")
    return place
