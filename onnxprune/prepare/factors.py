"""Chains of views, followed by the factors that the axes of their first value are cut into and merged from."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.shapes import Pair, Shapes, Sizes

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
"""Ops that hand on the same entries under other axes; all but Transpose in the same order."""


@dataclass
class Factors:
    """The axes of a value as factors, outermost first, of the axes of the value that the chain began with."""

    first: Sizes
    axes: list[list[int]] = field(init=False)
    sizes: list[Pair] = field(init=False)
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Factors that were cut in two on the way."""

    def __post_init__(self) -> None:
        self.sizes = list(self.first)
        self.axes = [[axis] if size != (1, 1) else [] for axis, size in enumerate(self.first)]

    def follow(self, node: gs.Node, target: Sizes) -> bool:
        """Goes on to the output of `node`, of these sizes; False where no factors explain it."""
        if node.op != "Transpose":
            return self._regroup(target)
        order = node.attrs.get("perm", list(reversed(range(len(self.axes)))))
        self.axes = [self.axes[axis] for axis in order]
        return True

    def _regroup(self, target: Sizes) -> bool:
        left = deque(self.finest(factor for axis in self.axes for factor in axis))
        axes = []
        for wanted in target:
            taken: list[int] = []
            while wanted != (1, 1):
                if not left:
                    return False
                factor = left.popleft()
                size = self.sizes[factor]
                if _divides(size, wanted):
                    taken.append(factor)
                    wanted = (wanted[0] // size[0], wanted[1] // size[1])  # noqa: PLW2901 - what is still to come
                elif _divides(wanted, size):
                    outer, inner = self._cut(factor, wanted)
                    taken.append(outer)
                    left.appendleft(inner)
                    break
                else:
                    return False
            axes.append(taken)
        self.axes = axes
        return not left

    def _cut(self, factor: int, outer: Pair) -> tuple[int, int]:
        a, b = self.sizes[factor]
        self.sizes += [outer, (a // outer[0], b // outer[1])]
        self.parts[factor] = len(self.sizes) - 2, len(self.sizes) - 1
        return self.parts[factor]

    def finest(self, factors: Iterable[int]) -> Iterator[int]:
        for factor in factors:
            if factor in self.parts:
                yield from self.finest(self.parts[factor])
            else:
                yield factor

    def before(self) -> list[list[int]]:
        """The axes that the chain began with, by the finest factors."""
        return [list(self.finest([axis])) if size != (1, 1) else [] for axis, size in enumerate(self.first)]

    def after(self) -> list[list[int]]:
        """The axes as they are now, by the finest factors."""
        return [list(self.finest(axis)) for axis in self.axes]

    def permuted(self) -> tuple[int, np.ndarray] | None:
        """(axis, which entry comes where) if all else is as it was in the beginning."""
        if len(self.axes) != len(self.first):
            return None
        before, after = self.before(), self.after()
        moved = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        if len(moved) != 1 or self.first[moved[0]][0] != self.first[moved[0]][1]:
            return None
        old, new = before[moved[0]], after[moved[0]]
        entries = np.arange(self.first[moved[0]][0]).reshape([self.sizes[factor][0] for factor in old])
        return moved[0], entries.transpose([old.index(factor) for factor in new]).reshape(-1)


def _divides(a: Pair, b: Pair) -> bool:
    return b[0] % a[0] == 0 and b[1] % a[1] == 0


def follow(first: gs.Node, shapes: Shapes, pinned: set[str]) -> Iterator[tuple[Sequence[gs.Node], Factors]]:
    """The chain of views from this node on, one longer each time, and the factors of what the last of it makes; as
    long as nothing else reads what is in between.
    """
    sizes = shapes.sizes.get(first.inputs[0].name)
    if sizes is None or any(0 in pair for pair in sizes):
        return
    factors = Factors(sizes)
    chain: list[gs.Node] = []
    node = first
    while node.op in VIEWS and node.domain in (None, "", "ai.onnx"):
        target = shapes.sizes.get(node.outputs[0].name)
        if target is None or not factors.follow(node, target):
            return
        chain.append(node)
        yield tuple(chain), factors
        readers = node.outputs[0].outputs
        if len(readers) != 1 or readers[0].inputs[0] is not node.outputs[0] or node.outputs[0].name in pinned:
            return
        node = readers[0]


def read_elsewhere(graph: gs.Graph) -> set[str]:
    """Values that are read otherwise than by a node of the graph itself."""
    inner = [sub for node in graph.nodes for sub in node.subgraphs(recursive=True)]
    names = {tensor.name for sub in (graph, *inner) for tensor in sub.outputs}
    return names.union(*(sub.tensors() for sub in inner))
