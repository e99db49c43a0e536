"""Pad, Expand, Tile: entries that appear on the way."""

from collections.abc import Sequence

import numpy as np

from onnxprune.links import At, Frozen, Links, Same
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


def _pads(node: Node) -> list[tuple[int, int]]:
    """(before, after) for every axis."""
    rank = len(node.shape())
    given = node.operand_ints("pads", 1)
    if given is None:
        raise Unknown("its pads are missing")
    over = [int(a) % rank for a in np.atleast_1d(node.value(3))] if node.has(3) else list(range(rank))
    pads = [(0, 0)] * rank
    for k, axis in enumerate(over):
        pads[axis] = (int(given[k]), int(given[k + len(over)]))
    return pads


@axes("Pad")
def pad(node: Node) -> Links:
    links = Links()
    constant = node.text("mode", "constant") == "constant"
    for axis, ((before, after), size) in enumerate(zip(_pads(node), node.shape(), strict=True)):
        source, target = At("in0", axis), At("out0", axis)
        if size is None or node.out_shape()[axis] is None:
            links.free += [source, target]
        elif before == after == 0:
            links.same.append(Same(source, target))
        elif constant:
            first, last = max(0, -before), size - max(0, -after)
            links.free += [source, target]  # what is cropped or filled in belongs to nothing else
            if size > 1:
                inside = range(max(0, before), max(0, before) + last - first)
                links.same.append(Same(source, target, range(first, last), inside))
            else:
                links.frozen.append(Frozen(target, "pads an axis of one entry"))
        else:
            links.frozen += [
                Frozen(source, "pads it by its own values"),
                Frozen(target, "pads by its own values"),
            ]
    return links


@repair("Pad")
def pad_counts(node: Node, kept: Kept) -> None:
    """As many entries before and after as are left of them."""
    pads = _pads(node)
    rank = len(pads)
    for axis, (before, after) in enumerate(pads):
        size = node.shape()[axis]
        if before == after == 0 or size is None or node.out_shape()[axis] is None:
            continue
        source, target = kept.indices(node.inputs[0], axis), kept.indices(node.outputs[0], axis)
        end = before + size  # of the data, in the output's own count
        new_before = int((target < before).sum()) if before > 0 else -int((source < -before).sum())
        new_after = int((target >= end).sum()) if after > 0 else -int((source >= size + after).sum())
        pads[axis] = (new_before, new_after)
    values = [b for b, _ in pads] + [a for _, a in pads]
    if "pads" in node.raw.attrs:
        node.raw.attrs["pads"] = values
        return
    node.set_input(1, np.asarray(values, dtype=np.int64))
    if node.has(3):
        node.set_input(3, np.arange(rank, dtype=np.int64))


@axes("Expand")
def expand(node: Node) -> Links:
    out, shape = node.out_shape(), node.shape()
    skipped = len(out) - len(shape)
    links = Links(free=[At("out0", axis) for axis in range(len(out))])
    for axis, size in enumerate(shape):
        if size == 1 or size is None:
            links.free.append(At("in0", axis))
        else:
            links.same.append(Same(At("in0", axis), At("out0", axis + skipped)))
    links.frozen += [Frozen(At("in1", 0), "reads it as a shape")]
    return links


@repair("Expand")
def expand_shape(node: Node, kept: Kept) -> None:
    """The shape operand with what is left of the output's static axes."""
    out = node.outputs[0]
    sizes = [kept.size(out, axis) if size is not None else None for axis, size in enumerate(node.out_shape())]
    node.set_shape(1, expansion_of(node, sizes))


def expansion_of(node: Node, sizes: Sequence[int | None]) -> list[int | None]:
    """A shape operand for output axes of these sizes: 1 leaves a dynamic axis (None) as the input has it; one that the
    input does not have stays as it was computed (None).
    """
    shape = node.shape()
    skipped = len(sizes) - len(shape)
    return [
        1 if size is None and axis >= skipped and shape[axis - skipped] is None else size
        for axis, size in enumerate(sizes)
    ]


@axes("Tile")
def tile(node: Node) -> Links:
    """How often an axis is repeated is read off its sizes: a computed operand may well repeat the batch alone."""
    links = Links(frozen=[Frozen(At("in1", 0), "reads it as numbers of repeats")])
    for axis, (size, out) in enumerate(zip(node.shape(), node.out_shape(), strict=True)):
        source, target = At("in0", axis), At("out0", axis)
        if size is None or out is None:
            links.free += [source, target]
            if size is not None:
                links.frozen.append(Frozen(source, "repeats it a computed number of times"))
        elif size == 1:
            links.frozen.append(Frozen(target, "repeats an axis of one entry"))
        else:
            links.same.append(Same(source, target, tuple(range(size)) * (out // size), range(out)))
    return links
