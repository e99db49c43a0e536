"""Linear attention: keys write values into a state, queries read it; one op in ONNX and in onnxruntime."""

from math import sqrt

from onnxprune.links import At, Links, Place, Virtual
from onnxprune.ops.attention import heads_left
from onnxprune.ops.microsoft import DOMAIN
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.shapes.foreign import Call, Sizes, shapes


@axes("LinearAttention")
@axes("LinearAttention", domain=DOMAIN)
def linear_attention(node: Node) -> Links:
    """`k` heads of keys and values, each for `g` heads of queries; the state is `d` by `v`.

    A closed channel of keys is zero when it is written, and so is what it is read by: all that it had from before.
    """
    queries, shared = node.attr("q_num_heads", 0), node.attr("kv_num_heads", 0)
    if not shared or queries % shared:
        raise Unknown("its numbers of heads do not fit")
    if node.attr("state_window", 0):
        raise Unknown("it keeps several states")
    decay = beta = ""
    if node.has(4):
        decay = "N T k" if node.shape(4)[2] == shared else "N T (k d)"
    if node.has(5):
        beta = "N T 1" if node.shape(5)[2] == 1 else "N T k"
    state = "N k d v"
    links = node.links(
        f"N T (k={shared} g={queries // shared} d), N T (k d), N T (k v), {state}, {decay}, {beta}"
        f" -> N T (k g v), {state}"
    )
    links.summed, links.measured = [At("in0", 2), At("in1", 2)], []
    width = node.shape(2)[2]
    if width is None:
        raise Unknown("the size of its values is not known")
    stated = next(
        (side for side, given in (("in3", node.has(3)), ("out1", len(node.outputs) > 1)) if given), None
    )
    values: Place = At(stated, 3) if stated else Virtual("v", width // shared)
    tokens = (At("in0", 0), At("in0", 1))
    links.macs = (*tokens, At("in0", 2), values)
    links.more_macs += [(*tokens, At("in1", 2), values)] * (
        2 if "delta" in node.text("update_rule", "") else 1
    )
    return links


@repair("LinearAttention")
@repair("LinearAttention", domain=DOMAIN)
def heads_and_scale(node: Node, kept: Kept) -> None:
    """The scale that the original has by default, and as many heads as are left."""
    per_head = node.shape()[2] // node.attr("q_num_heads")
    node.raw.attrs["q_num_heads"] = heads_left(kept.indices(node.inputs[0], 2), per_head)
    node.raw.attrs["kv_num_heads"] = heads_left(kept.indices(node.inputs[1], 2), per_head)
    node.raw.attrs["scale"] = node.attr("scale", 0.0) or 1 / sqrt(per_head)


@shapes("LinearAttention", domain=DOMAIN)
def linear_attention_shape(node: Call) -> list[Sizes]:
    (batch, length, hidden), queries, shared = (
        node.shape(0),
        node.attr("q_num_heads"),
        node.attr("kv_num_heads"),
    )
    values = node.shape(2)[2] // shared
    return [(batch, length, queries * values), (batch, shared, hidden // queries, values)]
