"""What only picks entries of an axis, in whatever way it is spelled, becomes one Gather.

The channel shuffle is the best known: (N, G C, H, W) is cut into (N, G, C, H, W), two axes change places, and both are
merged again. Read op by op that ties the channels to a grid of G by C. Read as a Gather with constant indices every
channel goes its own way. Any chain of Reshape, Flatten, Squeeze, Unsqueeze and Transpose is followed by the factors of
its axes, at both bindings of the dynamic sizes. A Compress by a constant condition is the other case.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.ops.elementwise import BROADCASTING, UNARY
from onnxprune.shapes import Pair, Shapes, Sizes

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
"""Ops that hand on the same entries under other axes; all but Transpose in the same order."""
KEEPING = {*UNARY, *BROADCASTING, "BatchNormalization", "MaxPool", "AveragePool", "LpPool"}
"""Ops that neither join nor cut the channel axis."""
ROW = 16
"""Entries that a Gather should copy at a time. One at a time it takes onnxruntime 9 times as long as the Transpose it
stands for (28 x 28 positions of 116 channels, channels last); between two Transposes as long."""


def lower_conditions(graph: gs.Graph) -> None:
    """Puts a Gather in place of each Compress by a constant condition: of that one, even the shape is known."""
    for node in graph.nodes:
        if node.op == "Compress" and isinstance(node.inputs[1], gs.Constant) and "axis" in node.attrs:
            chosen = np.flatnonzero(node.inputs[1].values)
            node.op = "Gather"
            node.inputs[1] = gs.Constant(f"{node.outputs[0].name}/chosen", chosen)


def lower_counts(graph: gs.Graph, shapes: Shapes) -> None:
    """Puts a Reshape in place of each Gather whose indices count through all of a flat value: what torch writes for a
    stride of nothing in a batch of any size.
    """
    nodes = []
    for node in graph.nodes:
        if node.op == "Gather" and node.attrs.get("axis", 0) == 0 and node.inputs[1].name in shapes.counting:
            data, index = node.inputs
            sizes = shapes.sizes[index.name]
            whole = prod(first for first, _ in sizes), prod(second for _, second in sizes)
            if shapes.sizes.get(data.name) == (whole,):
                shape = gs.Variable(f"{node.outputs[0].name}/shape", np.int64)
                shapes.sizes[shape.name] = ((len(sizes),) * 2,)
                nodes.append(gs.Node("Shape", shape.name, {}, [index], [shape]))
                node.op, node.attrs, node.inputs = "Reshape", {}, [data, shape]
        nodes.append(node)
    graph.nodes = nodes


def lower_permutations(graph: gs.Graph, shapes: Shapes) -> bool:
    """Puts a Gather in place of each chain of views whose whole effect is a permutation inside one static axis; True if
    there was any.

    Not between two grouped convolutions: there the grid of the chain may be the one that both are made of. The first
    and the last value of a chain keep their names and sizes; what only the chain read is left for `tidy`.
    """
    pinned = read_elsewhere(graph)
    lowered: dict[int, list[gs.Node]] = {}
    done: set[int] = set()
    grouped: _Grouped | None = None
    for first in graph.nodes:
        if first.op not in VIEWS or id(first) in done:
            continue
        found = _longest(first, shapes, pinned)
        if found is None:
            continue
        grouped = grouped or _Grouped(graph, shapes)
        if first.inputs[0].name in grouped and found.chain[-1].outputs[0].name in grouped:
            continue
        done |= {id(node) for node in found.chain}
        lowered[id(found.chain[-1])] = _gather(found, shapes)
    graph.nodes = [new for node in graph.nodes for new in lowered.get(id(node), [node])]
    return bool(lowered)


def _gather(found: "_Permutation", shapes: Shapes) -> list[gs.Node]:
    """The permutation as one Gather; where it would copy entry by entry, between two Transposes that make them rows."""
    last = found.chain[-1]
    source, target = found.chain[0].inputs[0], last.outputs[0]
    sizes = shapes.sizes[source.name]
    order = gs.Constant(f"{target.name}/order", found.order)
    shapes.sizes[order.name] = ((len(found.order), len(found.order)),)
    last.inputs.clear()
    last.outputs.clear()
    if prod(size for size, _ in sizes[found.axis + 1 :]) >= ROW:
        return [gs.Node("Gather", last.name, {"axis": found.axis}, [source, order], [target])]
    forth = [found.axis, *(axis for axis in range(len(sizes)) if axis != found.axis)]
    back = [forth.index(axis) for axis in range(len(sizes))]
    rows = [gs.Variable(f"{target.name}/{name}", dtype=source.dtype) for name in ("rows", "ordered")]
    for tensor in rows:
        shapes.sizes[tensor.name] = tuple(sizes[axis] for axis in forth)
        if source.name in shapes.types:
            shapes.types[tensor.name] = shapes.types[source.name]
    return [
        gs.Node("Transpose", f"{last.name}/rows", {"perm": forth}, [source], [rows[0]]),
        gs.Node("Gather", last.name, {"axis": 0}, [rows[0], order], [rows[1]]),
        gs.Node("Transpose", f"{last.name}/back", {"perm": back}, [rows[1]], [target]),
    ]


def read_elsewhere(graph: gs.Graph) -> set[str]:
    """Values that are read otherwise than by a node of the graph itself."""
    inner = [sub for node in graph.nodes for sub in node.subgraphs(recursive=True)]
    names = {tensor.name for sub in (graph, *inner) for tensor in sub.outputs}
    return names.union(*(sub.tensors() for sub in inner))


class _Grouped:
    """The values that share their channels with a grouped convolution, by ops that leave the channels as they are."""

    def __init__(self, graph: gs.Graph, shapes: Shapes) -> None:
        self.parents: dict[str, str] = {}
        grouped = []
        for node in graph.nodes:
            groups = node.attrs.get("group", 1) if node.op in ("Conv", "ConvTranspose") else 0
            weight = shapes.sizes.get(node.inputs[1].name) if groups > 1 else None
            depthwise = weight and (
                weight[0][0] == groups if node.op == "ConvTranspose" else weight[1][0] == 1
            )
            values = [*node.inputs[: 1 if groups else None], *node.outputs[:1]]
            names = [tensor.name for tensor in values if isinstance(tensor, gs.Variable) and tensor.name]
            if node.op in KEEPING or depthwise:
                for a, b in pairwise(names):
                    self.parents[self._root(a)] = self._root(b)
            elif groups > 1:
                grouped += names
        self.roots = {self._root(name) for name in grouped}

    def _root(self, name: str) -> str:
        while (parent := self.parents.get(name, name)) != name:
            self.parents[name] = self.parents.get(parent, parent)
            name = parent
        return name

    def __contains__(self, name: str) -> bool:
        return self._root(name) in self.roots


@dataclass(frozen=True)
class _Permutation:
    chain: list[gs.Node]
    axis: int
    order: np.ndarray


def _longest(first: gs.Node, shapes: Shapes, pinned: set[str]) -> _Permutation | None:
    """The longest chain from this node on that permutes one axis and does nothing else."""
    sizes = shapes.sizes.get(first.inputs[0].name)
    if sizes is None or any(0 in pair for pair in sizes):
        return None
    factors = Factors(sizes)
    chain: list[gs.Node] = []
    longest = None
    node = first
    while node.op in VIEWS and node.domain in (None, "", "ai.onnx"):
        target = shapes.sizes.get(node.outputs[0].name)
        if target is None or not factors.follow(node, target):
            break
        chain.append(node)
        moved = factors.permuted()
        if moved is not None:
            longest = _Permutation(list(chain), *moved)
        readers = node.outputs[0].outputs
        if len(readers) != 1 or readers[0].inputs[0] is not node.outputs[0] or node.outputs[0].name in pinned:
            break
        node = readers[0]
    return longest


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
