"""Sizes that the data decide over, such as how many boxes a detector finds: supposed to be a few.

Without them nothing is known of what comes after, and a detector's heads could not be pruned. Only shapes may follow
from them, never values: at run time there may be none.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

FEW = (1, 3)
"""Supposed at the two bindings: less than a slice of the first so many would leave."""

Sizes = Sequence[int]
Shapes = dict[str, tuple[int, ...]]


def suppose(
    nodes: Sequence[gs.Node], shapes: Shapes, values: dict[str, np.ndarray], count: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, sizes) of outputs, in bodies as well, that the data decide over, where the inputs' shapes are known."""
    for node in nodes:
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from suppose(attribute.nodes, shapes, values, count)
        if node.domain in (None, "", "ai.onnx") and any(
            out.name not in shapes for out in node.outputs if out.name
        ):
            for out, sizes in zip(node.outputs, _sizes(node, shapes, values, count), strict=False):
                if out.name and out.name not in shapes and sizes is not None:
                    yield out.name, tuple(sizes)


def declare(
    node: onnx.NodeProto, supposed: Collection[str], infos: Mapping[str, onnx.ValueInfoProto]
) -> None:
    """Tells inference, in a node's bodies, what is supposed of their values."""
    for attribute in node.attribute:
        for inner in attribute.g.node:
            attribute.g.value_info.extend(infos[name] for name in inner.output if name in supposed)
            declare(inner, supposed, infos)


def _sizes(
    node: gs.Node, shapes: Shapes, values: dict[str, np.ndarray], count: int
) -> Sequence[Sizes | None]:
    """The sizes of a node's outputs; None: not known."""
    given = shapes.get(node.inputs[0].name) if node.inputs else None
    axis = node.attrs.get("axis")
    match node.op:
        case "NonMaxSuppression":
            return [[count, 3]]
        case "If":
            return _alternatives(node, shapes, count)
        case _ if given is None:
            return []
        case "NonZero":
            return [[len(given), count]]
        case "Compress":
            return [[count] if axis is None else _with(given, [axis], count)]
        case "Unique":
            whole = [prod(given) if axis is None else given[axis]]
            return [[count] if axis is None else _with(given, [axis], count), [count], whole, [count]]
        case "TopK":
            return [_with(given, [-1 if axis is None else axis], count)] * 2
        case "Slice" if len(node.inputs) > 3:
            axes = node.inputs[3]
            known = axes.values if isinstance(axes, gs.Constant) else values.get(axes.name)
            return [] if known is None else [_with(given, known.reshape(-1).tolist(), count)]
    return []


def _with(given: Sizes, axes: Sequence[int], count: int) -> Sizes:
    over = [axis % len(given) for axis in axes]
    return [count if axis in over else size for axis, size in enumerate(given)]


def _alternatives(node: gs.Node, shapes: Shapes, count: int) -> Sequence[Sizes | None]:
    """What both branches of an If agree upon; the rest is for the data to decide."""
    found: list[Sizes | None] = []
    for outs in zip(node.attrs["then_branch"].outputs, node.attrs["else_branch"].outputs, strict=True):
        first, second = (shapes.get(out.name) for out in outs)
        agree = first is not None and second is not None and len(first) == len(second)
        found.append(
            [a if a == b else count for a, b in zip(first or (), second or (), strict=True)]
            if agree
            else None
        )
    return found
