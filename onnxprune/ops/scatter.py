"""Ops that read or write at indices: axes that are not indexed pass, and so does an axis whose constant indices follow
a single axis of the indices.
"""

from collections.abc import Iterable

import numpy as np

from onnxprune.links import At, Frozen, Links, Same
from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


def _follow(links: Links, node: Node, axis: int, component: int | None) -> int | None:
    """Says how the data's `axis` is indexed, by all of the indices or by one component of their last axis. Returns the
    axis of the indices that it follows, entry by entry, if there is one.
    """
    data, size = At("in0", axis), node.shape()[axis]
    indices = node.inputs[1].constant if node.inputs[1] else None
    if indices is None or size is None:
        links.frozen.append(Frozen(data, "indexes it by computed indices"))
        return None
    wanted = (indices if component is None else indices[..., component]).astype(np.int64) % size
    changing = [k for k in range(wanted.ndim) if (wanted != wanted.take([0], k)).any()]
    if len(changing) > 1:
        links.frozen.append(Frozen(data, "indexes it by indices that differ from place to place"))
        return None
    links.free.append(data)
    if not changing:
        links.frozen.append(Frozen(data, "takes a single entry", (int(wanted.reshape(-1)[0]),)))
        return None
    line = np.moveaxis(wanted, changing[0], 0).reshape(wanted.shape[changing[0]], -1)[:, 0]
    links.same.append(Same(data, At("in1", changing[0]), tuple(line.tolist())))
    return changing[0]


def _mend(node: Node, kept: Kept, components: Iterable[tuple[int, int | None]]) -> None:
    """Constant indices in what is left: `components` are the data's axes that they index, as for `_follow`."""
    indices = node.inputs[1]
    if indices is None or indices.constant is None:
        return
    values = indices.constant
    for k in range(values.ndim):
        values = values.take(kept.indices(indices, k), k)
    for axis, component in components:
        size = node.shape()[axis]
        if size is not None:
            where = ... if component is None else (..., component)
            values[where] = np.searchsorted(kept.indices(node.inputs[0], axis), values[where] % size)
    node.set_input(1, values)


# ---- indices of the data's own rank


def _beside(links: Links, node: Node, axis: int) -> None:
    """Axes that are not indexed: there the indices lie over the first entries of the data."""
    for k, (size, few) in enumerate(zip(node.shape(0), node.shape(1), strict=True)):
        data, indices = At("in0", k), At("in1", k)
        if k == axis:
            continue
        if (size is None) != (few is None):
            links.frozen += [Frozen(at, "meets an axis of another size") for at in (data, indices)]
        elif size is None or few is None or size == few:
            links.same.append(Same(data, indices))
        else:
            links.free.append(data)
            links.same.append(Same(data, indices, range(few)))


@axes("GatherElements")
def gather_elements(node: Node) -> Links:
    axis = node.attr("axis", 0) % len(node.shape())
    links = Links(same=[Same(At("in1", k), At("out0", k)) for k in range(len(node.shape()))])
    _beside(links, node, axis)
    _follow(links, node, axis, None)
    return links


@axes("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Links:
    rank = len(node.shape())
    axis = node.attr("axis", 0) % rank
    links = Links(same=[Same(At("in0", k), At("out0", k)) for k in range(rank)])
    links.same += [Same(At("in1", k), At("in2", k)) for k in range(rank)]
    _beside(links, node, axis)
    if _follow(links, node, axis, None) != axis:
        links.frozen.append(Frozen(At("in1", axis), "writes these entries wherever the indices say"))
    return links


@repair("GatherElements", "ScatterElements", "Scatter")
def positions_left(node: Node, kept: Kept) -> None:
    """Constant indices in the smaller axis."""
    _mend(node, kept, [(node.attr("axis", 0) % len(node.shape()), None)])


# ---- indices of several axes at once


@axes("GatherND")
def gather_nd(node: Node) -> Links:
    batch, leading, depth = node.attr("batch_dims", 0), len(node.shape(1)) - 1, node.shape(1)[-1]
    if depth is None:
        raise Unknown("how many axes it indexes is not known")
    links = Links(frozen=[Frozen(At("in1", leading), "holds one index per axis")])
    links.same += [Same(At("in0", k), At("in1", k)) for k in range(batch)]
    links.same += [Same(At("in1", k), At("out0", k)) for k in range(leading)]
    first = batch + depth
    links.same += [
        Same(At("in0", k), At("out0", leading + k - first)) for k in range(first, len(node.shape()))
    ]
    for component in range(depth):
        _follow(links, node, batch + component, component)
    return links


@axes("ScatterND")
def scatter_nd(node: Node) -> Links:
    rank, leading, depth = len(node.shape()), len(node.shape(1)) - 1, node.shape(1)[-1]
    if depth is None:
        raise Unknown("how many axes it indexes is not known")
    links = Links(frozen=[Frozen(At("in1", leading), "holds one index per axis")])
    links.same += [Same(At("in0", k), At("out0", k)) for k in range(rank)]
    links.same += [Same(At("in1", k), At("in2", k)) for k in range(leading)]
    links.same += [Same(At("in0", k), At("in2", leading + k - depth)) for k in range(depth, rank)]
    followed = {_follow(links, node, component, component) for component in range(depth)}
    links.frozen += [
        Frozen(At("in1", k), "writes these entries wherever the indices say")
        for k in range(leading)
        if k not in followed
    ]
    return links


@repair("GatherND", "ScatterND")
def tuples_left(node: Node, kept: Kept) -> None:
    """Constant indices in the smaller axes."""
    batch = node.attr("batch_dims", 0)
    _mend(node, kept, [(batch + component, component) for component in range(node.shape(1)[-1])])


# ---- entries chosen by their value


@axes("Compress")
def compress(node: Node) -> str:
    """By a computed condition; what a constant one keeps is a Gather after preparation."""
    if node.attr("axis") is None:
        raise Unknown("it keeps entries of all axes by a condition")
    data = names(node.shape(), {node.attr("axis") % len(node.shape())})
    return f"{data}, _ -> {data.replace('X', 'Y')}"


@axes("OneHot")
def one_hot(node: Node) -> str:
    data = names(node.shape()).split()
    axis = node.attr("axis", -1) % (len(data) + 1)
    return f"{' '.join(data)}, _, _ -> {' '.join([*data[:axis], 'D', *data[axis:]])}"


@axes("NonZero")
def non_zero(node: Node) -> Links:
    raise Unknown("how many entries it finds depends on the data")


@axes("Unique")
def unique(node: Node) -> Links:
    raise Unknown("how many entries it keeps depends on the data")


@axes("EyeLike")
def eye_like(node: Node) -> Links:
    raise Unknown("it makes a matrix of its input's size")
