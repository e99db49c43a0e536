"""Slice and Gather: which entries of an axis go on."""

import numpy as np

from onnxprune.links import At, Frozen, Grid, Links, Same, Virtual
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair

Spans = dict[int, range]


def _spans(node: Node) -> Spans:
    """The entries that a Slice takes of each axis it names; only axes of static size can be told."""
    shape = node.shape()
    starts, ends = node.operand_ints("starts", 1), node.operand_ints("ends", 2)
    if starts is None or ends is None:
        raise Unknown("its bounds are missing")
    over = node.operand_ints("axes", 3) or list(range(len(starts)))
    steps = node.operand_ints("steps", 4) or [1] * len(starts)
    spans: Spans = {}
    for axis, start, end, step in zip(over, starts, ends, steps, strict=True):
        size = shape[axis % len(shape)]
        if size is not None:
            spans[axis % len(shape)] = range(*slice(start, _end(end, step), step).indices(size))
    return spans


def _end(end: int, step: int) -> int | None:
    """ONNX spells `to the very beginning` of a backward slice as a huge negative end; a slice object as None."""
    return None if step < 0 and end < -(2**30) else end


def _cut_at_run_time(node: Node) -> list[int] | None:
    """The axes that a Slice with computed bounds may cut; None where all bounds are fixed."""
    given = [node.inputs[number] for number in (1, 2, 4) if node.has(number)]
    if all(value is None or value.constant is not None for value in given):
        return None
    rank = len(node.shape())
    return [axis % rank for axis in node.operand_ints("axes", 3) or range(node.shape(1)[0] or rank)]


@axes("Slice")
def slice_(node: Node) -> Links:
    links = Links()
    computed = _cut_at_run_time(node)
    if computed is not None:
        for axis in range(len(node.shape())):
            source, target = At("in0", axis), At("out0", axis)
            if axis in computed:
                links.frozen += [Frozen(at, "cuts it at computed bounds") for at in (source, target)]
            else:
                links.same.append(Same(source, target))
        return links
    spans = _spans(node)
    for axis, size in enumerate(node.shape()):
        source, target = At("in0", axis), At("out0", axis)
        if axis not in spans:
            links.same.append(Same(source, target)) if size else links.free.extend([source, target])
        elif len(spans[axis]) == 1 and size > 1:
            links.free.append(source)
            links.frozen.append(Frozen(source, "takes a single entry", spans[axis]))
        else:
            links.free.append(source)
            links.same.append(Same(source, target, spans[axis]))
    return links


@repair("Slice")
def slice_bounds(node: Node, kept: Kept) -> None:
    """The bounds in the smaller axis; where what is left is not evenly spaced, a Gather takes its place."""
    if _cut_at_run_time(node) is not None:
        return
    spans = _spans(node)
    starts, ends, over, steps = [], [], [], []
    for axis, span in spans.items():
        left = kept.indices(node.inputs[0], axis)
        stay = set(left.tolist())
        chosen = [entry for entry in span if entry in stay]
        position = np.searchsorted(left, chosen)
        gaps = np.diff(position)
        step = int(gaps[0]) if len(gaps) else 1
        if len(gaps) and (gaps != step).any():
            node.insert_gather(axis, position)
            continue
        first, last = int(position[0]), int(position[-1])
        end = last + step
        over.append(axis)
        starts.append(first)
        ends.append(end if end >= 0 else -(2**31))
        steps.append(step)
    _dynamic_spans(node, spans, (starts, ends, over, steps))
    node.set_operand_ints("starts", 1, starts)
    node.set_operand_ints("ends", 2, ends)
    node.set_operand_ints("axes", 3, over)
    if node.opset >= 10:
        node.set_operand_ints("steps", 4, steps)


def _dynamic_spans(
    node: Node, spans: Spans, lists: tuple[list[int], list[int], list[int], list[int]]
) -> None:
    """Bounds on axes of dynamic size stay as they are."""
    given = node.operand_ints("starts", 1) or []
    over = node.operand_ints("axes", 3) or list(range(len(given)))
    ends = node.operand_ints("ends", 2) or []
    steps = node.operand_ints("steps", 4) or [1] * len(given)
    rank = len(node.shape())
    for axis, start, end, step in zip(over, given, ends, steps, strict=True):
        if axis % rank not in spans:
            for values, value in zip(lists, (start, end, axis, step), strict=True):
                values.append(value)


@axes("Gather")
def gather(node: Node) -> Links:
    shape, rank = node.shape(), len(node.shape())
    axis = node.attr("axis", 0) % rank
    indices = node.inputs[1]
    index_rank = len(node.shape(1))
    links = Links()
    for k in range(rank):
        if k != axis:
            links.same.append(Same(At("in0", k), At("out0", k if k < axis else k + index_rank - 1)))
    source, targets = At("in0", axis), [At("out0", axis + k) for k in range(index_rank)]
    if indices is None or indices.constant is None or shape[axis] is None:
        links.frozen.append(Frozen(source, "indexes it by computed indices"))
        links.same += [Same(At("in1", k), target) for k, target in enumerate(targets)]
        return links
    chosen = tuple(int(i) % shape[axis] for i in indices.constant.reshape(-1))
    links.free += [source, *targets]
    along = [at for at, size in zip(targets, indices.constant.shape, strict=True) if size > 1]
    if len(chosen) == 1:
        links.frozen.append(Frozen(source, "takes a single entry", chosen))
    elif len(along) == 1:
        links.same.append(Same(source, along[0], chosen))
    else:  # an entry goes with every row or column of the table that it stands in
        table = Virtual("table", len(chosen))
        links.same.append(Same(source, table, chosen))
        links.grids.append(Grid(table, tuple(along)))
    return links


@repair("Gather")
def gather_indices(node: Node, kept: Kept) -> None:
    """The indices in the smaller axis."""
    axis = node.attr("axis", 0) % len(node.shape())
    indices = node.inputs[1]
    if indices is None or indices.constant is None or node.shape()[axis] is None:
        return
    left = kept.indices(node.inputs[0], axis)
    if len(left) == node.shape()[axis]:
        return
    wanted = indices.constant % node.shape()[axis]
    for k in range(wanted.ndim):
        wanted = wanted.take(kept.indices(node.outputs[0], axis + k), k)
    node.set_input(1, np.asarray(np.searchsorted(left, wanted), dtype=indices.constant.dtype))
