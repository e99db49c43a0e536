"""Attention: heads, and the channels of each head, of queries and keys apart from those of values."""

from math import sqrt

import numpy as np

from onnxprune.links import At, Links, Place, Same, Virtual
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair


@axes("Attention")
def attention(node: Node) -> Links:
    """`k` heads of keys and values, each for `g` heads of queries; `d` channels of a query, `v` of a value.

    The products of queries and keys are summed over `d` inside the op, so a closed channel of the query must be zero.
    """
    heads = "(k g)"
    if len(node.shape()) == 3:
        queries, shared = node.attr("q_num_heads", 0), node.attr("kv_num_heads", 0)
        if not shared or queries % shared:
            raise Unknown("its numbers of heads do not fit")
        query, key, value, out = (
            f"N T (k={shared} g={queries // shared} d)",
            "N L (k d)",
            "N L (k v)",
            "N T (k g v)",
        )
    else:
        query, key, value, out = f"N {heads} T d", "N k L d", "N k L v", f"N {heads} T v"
    if (
        len(node.outputs) > 1 and node.outputs[1] is not None
    ):  # then the channels of keys are passed on as well
        query = query.replace("d", "~d")
    mask = ""
    if node.has(3):
        names = ["M0", heads, "M2", "M3"][4 - len(node.shape(3)) :]
        mask = " ".join("1" if size == 1 else name for size, name in zip(node.shape(3), names, strict=True))
    links = node.links(
        f"{query}, {key}, {value}, {mask}, N k P d, N k P v, _ -> {out}, N k R d, N k R v, N {heads} T S"
    )
    length = At("in1", len(node.shape()) - 2)
    links.macs = (*(At("in0", axis) for axis in range(len(node.shape()))), length)
    links.more_macs.append((*(At("out0", axis) for axis in range(len(node.shape()))), length))
    return links


@repair("Attention")
def heads_and_scale(node: Node, kept: Kept) -> None:
    """The scale that the original has by default, and as many heads as are left."""
    query, key, *_ = node.inputs
    per_head = node.shape()[-1]
    if len(node.shape()) == 3:
        per_head //= node.attr("q_num_heads")
        node.raw.attrs["q_num_heads"] = heads_left(kept.indices(query, 2), per_head)
        node.raw.attrs["kv_num_heads"] = heads_left(kept.indices(key, 2), per_head)
    if not node.attr("scale", 0.0):
        node.raw.attrs["scale"] = 1 / sqrt(per_head)


def heads_left(indices: np.ndarray, per_head: int) -> int:
    """How many heads of so many channels these entries of a flattened axis are of."""
    return len(set((indices // per_head).tolist()))


@axes("RotaryEmbedding")
def rotary_embedding(node: Node) -> Links:
    return rotated(node, cosine=1)


def rotated(node: Node, cosine: int) -> Links:
    """Turns pairs of channels of each head: the halves of a pair go together, with their entry of the cosines and sines
    (inputs `cosine` and the next).
    """
    shape, turns = node.shape(), node.shape(cosine)[-1]
    if turns is None or shape[-1] is None:
        raise Unknown("the number of channels that it turns is not known")
    operands = ["_"] * len(node.inputs)
    data, per_head = "N h T d", shape[-1]
    if len(shape) == 3:
        heads = node.attr("num_heads", 0) or shape[-1] // (2 * turns)
        data, per_head = f"N T (h={heads} d)", shape[-1] // heads
    operands[0] = data
    for number in (cosine, cosine + 1):
        operands[number] = " ".join([*(f"C{k}" for k in range(len(node.shape(number)) - 1)), "r"])
    links = node.links(f"{', '.join(operands)} -> {data}")
    channels: Place = Virtual("d", per_head) if len(shape) == 3 else At("in0", 3)
    turned = range(2 * turns)
    pairs = [turned[::2], turned[1::2]] if node.attr("interleaved", 0) else [turned[:turns], turned[turns:]]
    links.same += [Same(channels, At(f"in{cosine}", len(node.shape(cosine)) - 1), half) for half in pairs]
    passed = range(2 * turns, per_head)
    if len(passed) % 2 == 0 and passed:  # the specification wants an even number of channels
        links.same.append(Same(channels, channels, passed[::2], passed[1::2]))
    links.macs = None
    return links


@repair("RotaryEmbedding")
def rotary_sizes(node: Node, kept: Kept) -> None:
    sizes_left(node, kept, cosine=1)


def sizes_left(node: Node, kept: Kept, cosine: int) -> None:
    """As many heads, and as many turned channels of each, as are left."""
    shape, data = node.shape(), node.inputs[0]
    if node.attr("num_heads", 0):
        per_head = shape[-1] // node.attr("num_heads")
        left = kept.size(data, 1) if len(shape) == 4 else heads_left(kept.indices(data, 2), per_head)
        node.raw.attrs["num_heads"] = left
    if node.attr("rotary_embedding_dim", 0):
        last = len(node.shape(cosine)) - 1
        node.raw.attrs["rotary_embedding_dim"] = 2 * kept.size(node.inputs[cosine], last)


@axes("TensorScatter")
def tensor_scatter(node: Node) -> Links:
    """Writes new keys or values into a cache, along the sequence."""
    rank = len(node.shape())
    along = node.attr("axis", -2) % rank
    cache = " ".join("S" if axis == along else f"x{axis}" for axis in range(rank))
    links = node.links(f"{cache}, {cache.replace('S', 'T')}, _ -> {cache}")
    links.macs = None
    return links
