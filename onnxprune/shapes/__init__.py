"""Sizes and fixed values of everything in a graph, found by inferring it at two bindings of its dynamic sizes.

What is equal at both is static; what differs is dynamic.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.shapes.binding import BATCH, Binding, Source, equal

Pair = tuple[int, int]
"""An axis's size at the two bindings of the dynamic sizes; equal where it is static."""
Sizes = tuple[Pair, ...]


@dataclass
class Shapes:
    """What is known of a graph's values."""

    sizes: dict[str, Sizes] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    """Element types as ONNX counts them; a file need not tell those of its inner tensors."""
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    """Computed values that are the same at both bindings."""
    counting: set[str] = field(default_factory=set)
    """Computed values that are 0, 1, 2, ... in the order of their entries, at both bindings."""
    batch: int = 1
    """The batch at which the first sizes hold; costs are divided by it."""


def infer(graph: gs.Graph) -> Shapes:
    """Sizes and fixed values of all tensors of `graph`. Raises ModelError where they contradict each other."""
    source = Source(graph)
    first = Binding(source, 0)
    first.run()
    second = Binding(source, 1, first)
    dynamic = any(not isinstance(size, int) for t in graph.inputs for size in t.shape or ())
    if dynamic or first.supposed:
        second.run()
    else:
        second = first
    shapes = Shapes(batch=BATCH[0] if first.batched else 1, types=first.types)
    for name, shape in first.shapes.items():
        other = second.shapes.get(name)
        if other is not None and len(other) == len(shape):
            shapes.sizes[name] = tuple(zip(shape, other, strict=True))
    for name, value in first.values.items():
        certain = name in first.certain and name in second.certain
        if certain and equal(value, second.values[name]):
            shapes.fixed[name] = value
        elif certain and _counts_up(value) and _counts_up(second.values[name]):
            shapes.counting.add(name)
    return shapes


def _counts_up(value: np.ndarray) -> bool:
    last = value.size - 1
    return last > 0 and value.flat[last] == last and np.array_equal(value.reshape(-1), np.arange(value.size))
