"""Labels of a batch: a tensor, or what the `collate` of a user's task makes of the samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Sample: TypeAlias = tuple[tuple[Any, ...], Any]
"""A sample's inputs and its label, as the data holds them."""

Collate: TypeAlias = Callable[[Sequence[Sample]], Any]
"""Makes the labels of a batch: tensors in main memory, nested as the user has them."""


def on_device(labels: Any, device: torch.device) -> Any:
    """The labels of a batch, a tensor or what a `collate` made, on `device`."""
    return mapped(lambda tensor: tensor.to(device, non_blocking=True), labels)


def mapped(change: Callable[[Any], Tensor], value: Any) -> Any:
    """The same dicts, tuples and lists with `change` of what they hold."""
    if isinstance(value, Mapping):
        return {key: mapped(change, inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(mapped(change, inner) for inner in value)
    return change(value)


def collated(collate: Collate | None, inputs: Sequence[Tensor], labels: Tensor | None) -> Any:
    """The labels of a batch from its samples' as the data holds them; these themselves without a `collate`."""
    if collate is None:
        return labels
    samples = zip(*inputs, strict=True)
    named = [None] * len(inputs[0]) if labels is None else labels
    return collate(list(zip(samples, named, strict=True)))
