"""The gates of a run as a method sees them, made up."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from onnxprune.groups import Groups
from onnxprune.methods.method import Gates


def lowest(w, rho):
    """As many of the lowest latents closed as it takes, all of one cost."""
    closed = np.argsort(w, kind="stable")[: len(w) - int(rho * len(w))]
    projected = np.maximum(w, np.float32(1e-4))
    projected[closed] = np.minimum(w[closed], 0)
    return projected


def gates(
    sizes: Mapping[str, int],
    *,
    unit: np.ndarray | None = None,
    groups: Callable[[], Groups] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    target: float = 0.5,
) -> Gates:
    count = sum(sizes.values())
    return Gates(
        sizes=sizes,
        project=lambda w, rho: w if rho >= 1 else lowest(w, rho),
        unit=lambda: np.ones(count) if unit is None else unit,
        fraction=lambda w: float((w > 0).mean()),
        miss=lambda opened: (sum(opened) / count - target) ** 2,
        groups=groups or (lambda: (_ for _ in ()).throw(AssertionError("no groups"))),
        tensor=({f"gate/{name}": torch.ones(size) for name, size in sizes.items()} | dict(tensors or {})).__getitem__,
    )
