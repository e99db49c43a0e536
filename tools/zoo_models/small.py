"""Networks written for the zoo: how an entry becomes one with random weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo_models.case import Network
from zoo_models.weights import randomize

Draw = Callable[[int], Tensor]
"""Inputs for a batch size."""


@dataclass(frozen=True)
class Entry:
    """A module and its inputs; `free` and `batch` as in Network."""

    build: Callable[[], nn.Module]
    inputs: tuple[Draw, ...]
    free: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    batch: Mapping[int, int] = field(default_factory=dict)


def numbers(*shape: int) -> Draw:
    """Normal numbers, N x shape."""
    return lambda count: torch.randn(count, *shape)


def tokens(*shape: int, below: int) -> Draw:
    """Whole numbers, N x shape."""
    return lambda count: torch.randint(0, below, (count, *shape))


def small_network(entry: Entry) -> Network:
    """The entry's module with random weights."""
    torch.manual_seed(0)
    module = entry.build()

    def sample(count: int) -> tuple[Tensor, ...]:
        return tuple(draw(count) for draw in entry.inputs)

    randomize(module, lambda: module(*sample(4)))
    return Network(module, sample, entry.free, entry.batch)
