"""onnxruntime's attention ops: their operands are flat, so every axis of heads is a product, some of them end to end.

`num_heads` and the sizes of heads are attributes; the rules write the products out.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

from onnxprune.links import At, Frozen, Grid, Links, Place, Same, Virtual
from onnxprune.ops.attention import heads_left, rotated, sizes_left
from onnxprune.ops.microsoft import DOMAIN
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.shapes.foreign import Call, Sizes, shapes


def _flat(links: Links, whole: Place, factors: Sequence[Virtual]) -> None:
    """States that an axis is the product of these."""
    several = tuple(factor for factor in factors if factor.size > 1)
    if len(several) > 1:
        links.grids.append(Grid(whole, several))
    else:
        links.same += [Same(factor, whole) for factor in several]


def _end_to_end(links: Links, wholes: Sequence[At], parts: Sequence[Sequence[Virtual]]) -> None:
    """States that each of these axes is these products, one after another."""
    start = 0
    for number, factors in enumerate(parts):
        part = Virtual(f"part{number}", prod(factor.size for factor in factors))
        _flat(links, part, factors)
        links.same += [Same(part, whole, None, range(start, start + part.size)) for whole in wholes]
        start += part.size


def _bias_names(node: Node, number: int) -> str:
    """What is added to the products of queries and keys: of rank 4, each axis of full size or 1."""
    if not node.has(number):
        return ""
    names = zip(node.shape(number), ("M0", "m1", "M2", "M3"), strict=True)
    return " ".join("1" if size == 1 else name for size, name in names)


def _heads_of_bias(links: Links, node: Node, number: int, factors: Sequence[Virtual]) -> None:
    if node.has(number) and node.shape(number)[1] != 1:
        _flat(links, At(f"in{number}", 1), factors)


def _divided(size: int | None, heads: int) -> int:
    if size is None or not heads or size % heads:
        raise Unknown("its number of heads does not fit")
    return size // heads


def _given(values: Sequence[object], number: int) -> bool:
    return len(values) > number and values[number] is not None


# ---- Attention: the projections to queries, keys and values are weights of the op


@axes("Attention", domain=DOMAIN)
def attention(node: Node) -> Links:
    """Weights (i, (h d) + (h d) + (h v)). With a cache, values are as wide as keys."""
    if node.attr("do_rotary", 0):
        raise Unknown("it turns queries and keys")
    cached = [side for side, given in (("in4", node.has(4)), ("out1", _given(node.outputs, 1))) if given]
    links = node.links(f"N T i, i p, p, _, E N y0 P y1, {_bias_names(node, 5)}, _ -> N T o, E N z0 R z1")
    heads, _, keys, values = _sizes_of(node)
    key = (Virtual("h", heads), Virtual("d", keys))
    value = key if cached else (Virtual("h", heads), Virtual("v", values))
    if cached and keys != values:
        raise Unknown("its cache holds keys and values of different sizes")
    _end_to_end(links, [At("in1", 1)] + [At("in2", 0)] * node.has(2), [key, key, value])
    _flat(links, At("out0", 2), value)
    _heads_of_bias(links, node, 5, key[:1])
    for side in cached:
        links.same += [Same(key[0], At(side, 2)), Same(key[1], At(side, 4))]
    links.summed = [At("in0", 2), At("in1", 1)] + [At("in2", 0)] * node.has(2)  # queries are made inside
    tokens = (At("in0", 0), At("in0", 1))
    length = At("out1", 3) if "out1" in cached else At("in0", 1)
    links.macs = (*tokens, At("in0", 2), At("in1", 1))
    links.more_macs += [(*tokens, length, Virtual("part0", heads * keys)), (*tokens, length, At("out0", 2))]
    return links


def _sizes_of(node: Node) -> tuple[int, int, int, int]:
    """Heads, and channels of each head's queries, keys and values."""
    heads, width = node.attr("num_heads"), node.shape(1)[1]
    hidden = node.attr("qkv_hidden_sizes") or [_divided(width, 3)] * 3
    queries, keys, values = (_divided(size, heads) for size in hidden)
    if sum(hidden) != width or queries != keys:
        raise Unknown("its hidden sizes do not fit")
    return heads, queries, keys, values


@repair("Attention", domain=DOMAIN)
def hidden_sizes(node: Node, kept: Kept) -> None:
    """The scale that the original has by default, and what is left of heads, keys and values."""
    heads, _, keys, values = _sizes_of(node)
    bounds = [0, heads * keys, 2 * heads * keys, heads * (2 * keys + values)]
    left = kept.indices(node.inputs[1], 1)
    node.raw.attrs["qkv_hidden_sizes"] = [
        int(((left >= low) & (left < high)).sum()) for low, high in pairwise(bounds)
    ]
    node.raw.attrs["num_heads"] = heads_left(left[left < bounds[1]], keys)
    node.raw.attrs["scale"] = node.attr("scale", 0.0) or 1 / sqrt(keys)


@shapes("Attention", domain=DOMAIN)
def attention_shape(node: Call) -> list[Sizes]:
    (batch, length, _), (_, width), heads = node.shape(0), node.shape(1), node.attr("num_heads")
    values = (node.attr("qkv_hidden_sizes") or [width // 3])[-1]
    total = length + (node.shape(4)[3] if node.has(4) else 0)
    if node.has(6):  # keys and values are written into the cache that came in
        total = node.shape(4)[3]
    return [(batch, length, values), (2, batch, heads, total, values // heads)]


# ---- MultiHeadAttention: queries, keys and values come in, their biases are added inside


@axes("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(node: Node) -> Links:
    """Keys and values flat like the queries, or of rank 4 as a cache holds them; then, and with a cache, values are
    as wide as keys.
    """
    if len(node.shape()) != 3 or not node.has(2):
        raise Unknown("its queries, keys and values come in one operand")
    heads, unfolded = node.attr("num_heads"), len(node.shape(1)) == 4
    keys = _divided(node.shape()[2], heads)
    values = node.shape(2)[3] if unfolded else _divided(node.shape(2)[2], heads)
    tied = unfolded or node.has(6)
    if tied and keys != values:
        raise Unknown("its keys and values differ in size")
    key = (Virtual("h", heads), Virtual("d", keys))
    value = key if tied else (Virtual("h", heads), Virtual("v", values))
    given = "N k0 L k1, N v0 L v1" if unfolded else "N L k, N L v"
    bias = _bias_names(node, 5)
    caches = "N x0 P x1, N y0 P y1, _, _ -> N T o, N r0 R r1, N s0 R s1, N w0 T S"
    links = node.links(f"N T q, {given}, p, _, {bias}, {caches}")
    _flat(links, At("in0", 2), key)
    _flat(links, At("out0", 2), value)
    for side, of, apart in (("in1", key, unfolded), ("in2", value, unfolded), ("in6", key, True), ("in7", value, True),
                            ("out1", key, True), ("out2", value, True)):  # fmt: skip
        if not _given(node.inputs if side[0] == "i" else node.outputs, int(side[-1])):
            continue
        if apart:
            links.same += [Same(of[0], At(side, 1)), Same(of[1], At(side, 3))]
        else:
            _flat(links, At(side, 2), of)
    if node.has(3):
        _end_to_end(links, [At("in3", 0)], [key, key, value])
    _heads_of_bias(links, node, 5, key[:1])
    if _given(node.outputs, 3):
        links.same.append(Same(key[0], At("out3", 1)))
    links.summed = [At("in0", 2)] + [At("in3", 0)] * node.has(3)  # a query is the sum of the two
    length = At("out1", 2) if _given(node.outputs, 1) else At("in1", 2 if unfolded else 1)
    links.macs = (At("in0", 0), At("in0", 1), At("in0", 2), length)
    links.more_macs.append((At("in0", 0), At("in0", 1), At("out0", 2), length))
    return links


@repair("MultiHeadAttention", domain=DOMAIN)
def heads_and_scale(node: Node, kept: Kept) -> None:
    """The scale that the original has by default, and as many heads as are left."""
    per_head = node.shape()[2] // node.attr("num_heads")
    node.raw.attrs["num_heads"] = heads_left(kept.indices(node.inputs[0], 2), per_head)
    node.raw.attrs["scale"] = node.attr("scale", 0.0) or 1 / sqrt(per_head)


@shapes("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention_shape(node: Call) -> list[Sizes]:
    (batch, length, hidden), key, value = node.shape(0), node.shape(1), node.shape(2)
    heads, unfolded = node.attr("num_heads"), len(key) == 4
    values = value[3] if unfolded else value[2] // heads
    total = (key[2] if unfolded else key[1]) + (node.shape(6)[2] if node.has(6) else 0)
    if node.has(8):  # keys and values are written into the cache that came in
        total = node.shape(6)[2]
    caches = [(batch, heads, total, channels) for channels in (hidden // heads, values)]
    return [(batch, length, heads * values), *caches, (batch, heads, length, total)]


# ---- GroupQueryAttention: its kernels want heads of whole eights, so only heads go


@axes("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(node: Node) -> Links:
    """`k` heads of keys and values, each for `g` heads of queries."""
    if any(node.has(number) for number in range(12, len(node.inputs))):
        raise Unknown("its cache is quantised, or its queries are normalised or padded inside")
    queries, shared = node.attr("num_heads"), node.attr("kv_num_heads")
    kept_whole = "its kernels want heads of a multiple of 8"
    group, packed = Virtual("g", _divided(queries, shared)), not node.has(1)
    per_head = _divided(node.shape()[2], queries + 2 * shared if packed else queries)
    query = (Virtual("k", shared), group, Virtual("d", per_head))
    key = (query[0], query[2])
    caches = "N x0 P x1, N y0 P y1, _, _, _, _, _"
    bias = _bias_names(node, 10)
    links = node.links(f"N T q, N L a, N L b, {caches}, {bias}, s -> N T o, N r0 R r1, N t0 R t1, N w0 T S")
    links.frozen.append(Frozen(query[2], kept_whole))
    if packed:
        _end_to_end(links, [At("in0", 2)], [query, key, key])
    else:
        _flat(links, At("in0", 2), query)
        _flat(links, At("in1", 2), key)
        _flat(links, At("in2", 2), key)
    _flat(links, At("out0", 2), query)
    for side, values in (("in", node.inputs), ("out", node.outputs)):
        for number in (3, 4) if side == "in" else (1, 2):
            if _given(values, number):
                links.same += [Same(key[0], At(f"{side}{number}", 1)), Same(key[1], At(f"{side}{number}", 3))]
    _heads_of_bias(links, node, 10, query[:2])
    if node.has(11):
        _flat(links, At("in11", 0), query[:2])
    if _given(node.outputs, 3):
        _flat(links, At("out3", 1), query[:2])
    links.summed = []  # what it sums over stays whole
    length = At("out1", 2) if _given(node.outputs, 1) else At("in0", 1)
    links.macs = (At("in0", 0), At("in0", 1), At("out0", 2), length)
    links.more_macs.append(links.macs)
    return links


@repair("GroupQueryAttention", domain=DOMAIN)
def both_numbers_of_heads(node: Node, kept: Kept) -> None:
    """As many heads as are left; of the packed form, keys follow the queries."""
    queries, shared = node.attr("num_heads"), node.attr("kv_num_heads")
    packed = not node.has(1)
    per_head = node.shape()[2] // (queries + 2 * shared if packed else queries)
    left = heads_left(kept.indices(node.outputs[0], 2), per_head)
    of_keys = (
        kept.size(node.inputs[0], 2) // per_head - left
        if packed
        else 2 * kept.size(node.inputs[1], 2) // per_head
    )
    node.raw.attrs["num_heads"], node.raw.attrs["kv_num_heads"] = left, of_keys // 2


@shapes("GroupQueryAttention", domain=DOMAIN)
def group_query_attention_shape(node: Call) -> list[Sizes]:
    (batch, length, hidden), queries, shared = (
        node.shape(0),
        node.attr("num_heads"),
        node.attr("kv_num_heads"),
    )
    per_head = hidden // (queries if node.has(1) else queries + 2 * shared)
    total = length + (node.shape(3)[2] if node.has(3) else 0)
    cache = (batch, shared, total, per_head)
    return [(batch, length, queries * per_head), cache, cache, (batch, queries, length, total)]


# ---- RotaryEmbedding: as ONNX's, with the positions before the cosines


@axes("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(node: Node) -> Links:
    return rotated(node, cosine=2)


@repair("RotaryEmbedding", domain=DOMAIN)
def rotary_sizes(node: Node, kept: Kept) -> None:
    sizes_left(node, kept, cosine=2)


@shapes("RotaryEmbedding", domain=DOMAIN)
def as_given(node: Call) -> list[Sizes]:
    return [node.shape(0)]
