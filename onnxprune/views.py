"""Chains of views that merge axes only to take them apart again, written without the merging.

Attention is exported that way: (N, h, T, d) becomes (N h, T, d), the last two axes change places, and (N, h, d, T) is
cut out of it. Read op by op, heads that are merged with a batch of unknown size must all stay. Any chain of views is
one Reshape that cuts, one Transpose, and one Reshape that merges, with or without each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.lower import VIEWS, Factors, read_elsewhere
from onnxprune.shapes import Pair, Shapes, Sizes


def shorten_views(graph: gs.Graph, shapes: Shapes) -> bool:
    """Rewrites each chain of views that merges axes for a time; True if there was any.

    The first and the last value of a chain keep their names and sizes; what only the chain read is left for `tidy`.
    """
    pinned = read_elsewhere(graph)
    shortened: dict[int, list[gs.Node]] = {}
    done: set[int] = set()
    for first in graph.nodes:
        if first.op == "Reshape" and id(first) not in done:
            found = _longest(first, shapes, pinned)
            if found is not None:
                done |= {id(node) for node in found.chain}
                shortened[id(found.chain[-1])] = found.nodes(shapes)
    graph.nodes = [new for node in graph.nodes for new in shortened.get(id(node), [node])]
    return bool(shortened)


def _longest(first: gs.Node, shapes: Shapes, pinned: set[str]) -> "_Views | None":
    """The longest chain from this node on that can be written without merges that come apart again."""
    sizes = shapes.sizes.get(first.inputs[0].name)
    if sizes is None or any(0 in pair for pair in sizes):
        return None
    factors = Factors(sizes)
    chain: list[gs.Node] = []
    between: list[list[list[int]]] = []
    longest = None
    node = first
    while node.op in VIEWS and node.domain in (None, "", "ai.onnx"):
        target = shapes.sizes.get(node.outputs[0].name)
        if target is None or not factors.follow(node, target):
            break
        chain.append(node)
        views = _Views.of(chain, factors, target)
        if views is not None and any(views.takes_apart(axis, factors) for axes in between for axis in axes):
            longest = views
        between.append([list(axis) for axis in factors.axes])
        readers = node.outputs[0].outputs
        if len(readers) != 1 or readers[0].inputs[0] is not node.outputs[0] or node.outputs[0].name in pinned:
            break
        node = readers[0]
    return longest


@dataclass(frozen=True)
class _Views:
    """A chain as cut, transposition and merge. Factors are numbered in the order they have after the cut."""

    chain: list[gs.Node]
    sizes: Sizes
    cut: list[int] | None
    """Reshape target; None: no axis is cut."""
    order: list[int]
    merge: list[int] | None
    before: list[list[int]]
    after: list[list[int]]

    @classmethod
    def of(cls, chain: Sequence[gs.Node], factors: Factors, target: Sizes) -> "_Views | None":
        """None where a Reshape would need two computed sizes, or two cannot be told apart, as of height and width."""
        before = [
            list(factors.finest([axis])) if size != (1, 1) else [] for axis, size in enumerate(factors.first)
        ]
        after = [list(factors.finest(axis)) for axis in factors.axes]
        flat = [factor for axis in before for factor in axis]
        sizes = tuple(factors.sizes[factor] for factor in flat)
        dynamic = [size for size in sizes if size[0] != size[1]]
        order = [flat.index(factor) for axis in after for factor in axis]
        cut = _target(sizes, [[factor] for factor in flat], before)
        merge = _target(target, after, [[flat[k]] for k in order])
        if max((wanted or []).count(-1) for wanted in (cut, merge)) > 1 or len(set(dynamic)) < len(dynamic):
            return None
        return cls(list(chain), sizes, cut, order, merge, before, after)

    def takes_apart(self, axis: Sequence[int], factors: Factors) -> bool:
        """Whether factors on this axis, of a value in between, are together neither before nor after."""
        together = list(factors.finest(axis))
        return any(
            not any({a, b} <= set(other) for other in (*self.before, *self.after))
            for a, b in pairwise(together)
        )

    def nodes(self, shapes: Shapes) -> list[gs.Node]:
        last = self.chain[-1]
        value, target = self.chain[0].inputs[0], last.outputs[0]
        kind, element = value.dtype, shapes.types.get(value.name)
        steps: list[tuple[str, str, Sizes]] = []
        if self.cut is not None:
            steps.append(("Reshape", "cut", self.sizes))
        if self.order != sorted(self.order):
            steps.append(("Transpose", "ordered", tuple(self.sizes[k] for k in self.order)))
        if self.merge is not None or not steps:
            steps.append(("Reshape" if self.merge is not None else "Identity", "merged", ()))
        last.inputs.clear()
        last.outputs.clear()
        made = []
        for number, (op, step, sizes) in enumerate(steps):
            name = f"{target.name}/{step}"
            out = target if number == len(steps) - 1 else gs.Variable(name, dtype=kind)
            if out is not target:
                shapes.sizes[name] = sizes
                if element is not None:
                    shapes.types[name] = element
            inputs = [value]
            if op == "Reshape":
                wanted = self.cut if step == "cut" else self.merge
                inputs.append(gs.Constant(f"{name}/sizes", np.asarray(wanted, dtype=np.int64)))
                shapes.sizes[inputs[1].name] = ((len(wanted or ()),) * 2,)
            made.append(gs.Node(op, name, {"perm": self.order} if op == "Transpose" else {}, inputs, [out]))
            value = out
        return made


def _target(
    sizes: Sequence[Pair], axes: Sequence[Sequence[int]], given: Sequence[Sequence[int]]
) -> list[int] | None:
    """What to tell a Reshape that makes these axes, of these factors, of those that are given; None: nothing to do.

    A size that is not static is copied (0) where that axis is given in the same place, else inferred (-1).
    """
    if [list(axis) for axis in axes] == [list(axis) for axis in given]:
        return None
    copied = [place < len(given) and list(axis) == list(given[place]) for place, axis in enumerate(axes)]
    return [
        size if size == other else 0 if same else -1
        for (size, other), same in zip(sizes, copied, strict=True)
    ]
