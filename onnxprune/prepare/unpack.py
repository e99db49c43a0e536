"""Parts that lie end to end on one axis, taken from it before it is cut rather than after.

One layer often makes queries, keys and values at once: (N, T, 3 h d) is cut into (N, T, 3, h, d), turned, and each of
the three is picked out. As long as they lie in one value, whatever one of them loses the others lose. Sliced off first,
each has views of its own, and channels of its own.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.prepare.factors import Factors, follow, read_elsewhere
from onnxprune.prepare.lower import ROW
from onnxprune.prepare.views import Views, variable
from onnxprune.shapes import Shapes, Sizes

Pick = tuple[gs.Tensor, int, bool]
"""What a reader makes, of which entry of the axis, and whether the axis is left, with one entry."""


def unpack_views(graph: gs.Graph, shapes: Shapes) -> bool:
    """Slices off what is picked out behind a chain of views; True if there was any such chain."""
    pinned = read_elsewhere(graph)
    unpacked: dict[int, list[gs.Node]] = {}
    for first in graph.nodes:
        if first.op == "Reshape" and first.inputs:
            for chain, factors in follow(first, shapes, pinned):
                packed = chain[-1].outputs[0]
                made = (
                    _unpacked(graph, first.inputs[0], packed, factors, shapes)
                    if packed.name not in pinned
                    else None
                )
                if made is not None:
                    unpacked[id(chain[-1])] = made
                    break
    graph.nodes = [new for node in graph.nodes for new in unpacked.get(id(node), [node])]
    return bool(unpacked)


def _unpacked(
    graph: gs.Graph, source: gs.Tensor, packed: gs.Tensor, factors: Factors, shapes: Shapes
) -> list[gs.Node] | None:
    """The picks made of `source` instead of `packed`; None unless all readers pick along what is outermost on a static
    axis of the source, or innermost with more than single entries to copy behind it.
    """
    found = [_picks(reader, packed, shapes) for reader in packed.outputs]
    along = {axis for axis, _ in found}
    if len(along) != 1 or None in along:
        return None
    (axis,) = along
    before, after = factors.before(), factors.after()
    parts = after[axis] if axis is not None else []
    whole = next((k for k, of in enumerate(before) if parts and parts != of and _at_an_end(parts, of)), None)
    if axis is None or whole is None or factors.first[whole][0] != factors.first[whole][1]:
        return None
    inner = before[whole][: len(parts)] != parts
    if inner and (graph.opset < 10 or prod(size for size, _ in factors.first[whole + 1 :]) < ROW):
        return None
    before[whole] = before[whole][: -len(parts)] if inner else before[whole][len(parts) :]
    count = shapes.sizes[packed.name][axis][0]
    wanted = []
    for target, entry, left in (pick for _, picks in found for pick in picks):
        axes = [*after[:axis], *([[]] if left else []), *after[axis + 1 :]]
        views = Views.of(factors, before, axes, shapes.sizes[target.name])
        if views is None:
            return None
        wanted.append((target, entry, views))
    for node in (*packed.inputs, *packed.outputs):
        node.inputs.clear()
        node.outputs.clear()
    parts_made = (
        _part(graph, source, target, (whole, entry, count, inner), views, shapes)
        for target, entry, views in wanted
    )
    return [node for part in parts_made for node in part]


def _part(
    graph: gs.Graph,
    source: gs.Tensor,
    target: gs.Tensor,
    which: tuple[int, int, int, bool],
    views: Views,
    shapes: Shapes,
) -> list[gs.Node]:
    """Slices part `entry` of `count` off an axis, `inner` each `count`-th entry, else a stretch; its views follow."""
    axis, entry, count, inner = which
    sizes = shapes.sizes[source.name]
    length = sizes[axis][0] // count
    part = variable(
        f"{target.name}/part", (*sizes[:axis], (length, length), *sizes[axis + 1 :]), source, shapes
    )
    nodes = views.nodes(part, target, shapes)
    first, step = (entry, count) if inner else (entry * length, 1)
    bounds = {"starts": [first], "ends": [first + (length - 1) * step + 1], "axes": [axis]}
    if inner:
        bounds["steps"] = [step]
    operands: list[gs.Tensor] = []
    if graph.opset >= 10:
        operands = [gs.Constant(f"{part.name}/{name}", np.asarray(value)) for name, value in bounds.items()]
        shapes.sizes |= {operand.name: ((1, 1),) for operand in operands}
        bounds = {}
    return [gs.Node("Slice", part.name, bounds, [source, *operands], [part if nodes else target]), *nodes]


def _at_an_end(parts: Sequence[int], of: Sequence[int]) -> bool:
    return list(parts) in (list(of[: len(parts)]), list(of[-len(parts) :]))


def _picks(reader: gs.Node, packed: gs.Tensor, shapes: Shapes) -> tuple[int | None, Sequence[Pick]]:
    """(axis, single entries that this node picks of it); None where it does something else."""
    sizes = shapes.sizes[packed.name]
    outputs = [tensor for tensor in reader.outputs if tensor.name]
    if reader.inputs[0] is not packed or any(tensor is packed for tensor in reader.inputs[1:]):
        return None, []
    if reader.domain not in (None, "", "ai.onnx") or any(
        tensor.name not in shapes.sizes for tensor in outputs
    ):
        return None, []
    match reader.op:
        case "Gather" if _known(reader.inputs[1:]) and reader.inputs[1].values.size == 1:
            axis = reader.attrs.get("axis", 0) % len(sizes)
            index = reader.inputs[1].values
            return axis, [(outputs[0], int(index.reshape(())) % sizes[axis][0], index.ndim > 0)]
        case "Slice" if len(reader.inputs) > 3 and _known(reader.inputs[1:]):
            return _sliced(reader, sizes, outputs[0])
        case "Split":
            axis = reader.attrs.get("axis", 0) % len(sizes)
            if len(outputs) == sizes[axis][0] == sizes[axis][1]:
                return axis, [(tensor, entry, True) for entry, tensor in enumerate(outputs)]
    return None, []


def _sliced(reader: gs.Node, sizes: Sizes, made: gs.Tensor) -> tuple[int | None, Sequence[Pick]]:
    starts, ends, axes, *steps = (tensor.values.reshape(-1).tolist() for tensor in reader.inputs[1:])
    axis = axes[0] % len(sizes)
    start, end = (bound + sizes[axis][0] if bound < 0 else bound for bound in (starts[0], ends[0]))
    if len(axes) > 1 or steps not in ([], [[1]]) or min(end, sizes[axis][0]) != start + 1:
        return None, []
    return axis, [(made, start, True)]


def _known(operands: Sequence[gs.Tensor]) -> bool:
    return all(isinstance(tensor, gs.Constant) for tensor in operands)
