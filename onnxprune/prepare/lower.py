"""What only picks entries of an axis, in whatever way it is spelled, becomes one Gather.

The channel shuffle is the best known: (N, G C, H, W) is cut into (N, G, C, H, W), two axes change places, and both are
merged again. Read op by op that ties the channels to a grid of G by C. Read as a Gather with constant indices every
channel goes its own way. Any chain of Reshape, Flatten, Squeeze, Unsqueeze and Transpose is followed by the factors of
its axes, at both bindings of the dynamic sizes. A Compress by a constant condition is the other case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.ops.elementwise import BROADCASTING, UNARY
from onnxprune.prepare.factors import VIEWS, follow, read_elsewhere
from onnxprune.shapes import Shapes

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
    chain: Sequence[gs.Node]
    axis: int
    order: np.ndarray


def _longest(first: gs.Node, shapes: Shapes, pinned: set[str]) -> _Permutation | None:
    """The longest chain from this node on that permutes one axis and does nothing else."""
    longest = None
    for chain, factors in follow(first, shapes, pinned):
        moved = factors.permuted()
        if moved is not None:
            longest = _Permutation(chain, *moved)
    return longest
