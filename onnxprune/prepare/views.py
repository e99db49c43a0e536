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

from onnxprune.prepare.factors import Factors, follow, read_elsewhere
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
            chain, views = _longest(first, shapes, pinned)
            if views is not None:
                done |= {id(node) for node in chain}
                shortened[id(chain[-1])] = _in_place(chain, views, shapes)
    graph.nodes = [new for node in graph.nodes for new in shortened.get(id(node), [node])]
    return bool(shortened)


def _in_place(chain: Sequence[gs.Node], views: "Views", shapes: Shapes) -> list[gs.Node]:
    source, target = chain[0].inputs[0], chain[-1].outputs[0]
    chain[-1].inputs.clear()
    chain[-1].outputs.clear()
    return views.nodes(source, target, shapes) or [
        gs.Node("Identity", f"{target.name}/same", {}, [source], [target])
    ]


def _longest(first: gs.Node, shapes: Shapes, pinned: set[str]) -> tuple[Sequence[gs.Node], "Views | None"]:
    """The longest chain from this node on that can be written without merges that come apart again."""
    longest: tuple[Sequence[gs.Node], Views | None] = [], None
    between: list[list[list[int]]] = []
    for chain, factors in follow(first, shapes, pinned):
        views = Views.of(factors, factors.before(), factors.after(), shapes.sizes[chain[-1].outputs[0].name])
        if views is not None and any(views.takes_apart(axis, factors) for axes in between for axis in axes):
            longest = chain, views
        between.append([list(axis) for axis in factors.axes])
    return longest


@dataclass(frozen=True)
class Views:
    """Cut, transposition and merge. Axes are lists of factors, by number."""

    sizes: Sizes
    """Of the factors in the order that they have after the cut."""
    cut: list[int] | None
    """Reshape target; None: no axis is cut."""
    order: list[int]
    merge: list[int] | None
    before: list[list[int]]
    after: list[list[int]]

    @classmethod
    def of(
        cls, factors: Factors, before: list[list[int]], after: list[list[int]], target: Sizes
    ) -> "Views | None":
        """The way from axes of the factors `before` to axes `after`, of the sizes `target`. None where a Reshape would
        need two computed sizes, or two cannot be told apart, as of height and width.
        """
        flat = [factor for axis in before for factor in axis]
        sizes = tuple(factors.sizes[factor] for factor in flat)
        dynamic = [size for size in sizes if size[0] != size[1]]
        order = [flat.index(factor) for axis in after for factor in axis]
        cut = _target(sizes, [[factor] for factor in flat], before)
        merge = _target(target, after, [[flat[k]] for k in order])
        if before == after:  # with axes of one entry in the same places
            cut = merge = None
        if max((wanted or []).count(-1) for wanted in (cut, merge)) > 1 or len(set(dynamic)) < len(dynamic):
            return None
        return cls(sizes, cut, order, merge, before, after)

    def takes_apart(self, axis: Sequence[int], factors: Factors) -> bool:
        """Whether factors on this axis, of a value in between, are together neither before nor after."""
        together = list(factors.finest(axis))
        return any(
            not any({a, b} <= set(other) for other in (*self.before, *self.after))
            for a, b in pairwise(together)
        )

    def nodes(self, value: gs.Tensor, target: gs.Tensor, shapes: Shapes) -> list[gs.Node]:
        """What makes `target` of `value`; nothing where they are alike."""
        steps: list[tuple[str, str, list[int], Sizes]] = []
        if self.cut is not None:
            steps.append(("Reshape", "cut", self.cut, self.sizes))
        if self.order != sorted(self.order):
            steps.append(("Transpose", "ordered", self.order, tuple(self.sizes[k] for k in self.order)))
        if self.merge is not None:
            steps.append(("Reshape", "merged", self.merge, ()))
        made = []
        for number, (op, step, how, sizes) in enumerate(steps):
            name = f"{target.name}/{step}"
            out = target if number == len(steps) - 1 else variable(name, sizes, value, shapes)
            inputs = [value]
            if op == "Reshape":
                inputs.append(gs.Constant(f"{name}/sizes", np.asarray(how, dtype=np.int64)))
                shapes.sizes[inputs[1].name] = ((len(how), len(how)),)
            made.append(gs.Node(op, name, {"perm": how} if op == "Transpose" else {}, inputs, [out]))
            value = out
        return made


def variable(name: str, sizes: Sizes, like: gs.Tensor, shapes: Shapes) -> gs.Variable:
    """A new value of these sizes, of the element type of another."""
    shapes.sizes[name] = sizes
    if like.name in shapes.types:
        shapes.types[name] = shapes.types[like.name]
    return gs.Variable(name, dtype=like.dtype)


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
