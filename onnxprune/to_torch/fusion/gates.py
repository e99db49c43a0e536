"""Gates moved from the activations into the weights they meet: the same function, without a cost per pixel.

A gate before a Conv, Gemm or MatMul scales the very channels that the op sums away, so scaling the weight's
entries of those channels instead changes nothing: sum_i (x_i m_i) W_i = sum_i x_i (m_i W_i). Gates with any
other reader stay where they are, and those that meet more weights than a batch has activations there. What a
closed channel holds must be finite here: 0 * infinity is NaN.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import fx

from onnxprune.to_torch.fusion.match import op, setting, shape
from onnxprune.to_torch.ops.gate import FoldedGate, Gate

_BATCH = 32  # that a net is thought to train with, to tell which is cheaper to scale


class _Place(NamedTuple):
    """The operand of a node that takes over a gate, and the axis of that operand."""

    operand: int
    axis: int
    groups: int = 1


def fold_gates(module: fx.GraphModule) -> int:
    """Fold what can be, in place; returns how many gates."""
    folded = 0
    for node in list(module.graph.nodes):
        gate = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(gate, Gate):
            continue
        places = {user: _place(user, node) for user in node.users}
        if not places or any(place is None for place in places.values()) or not _pays(node, places):
            continue
        x, w = node.args
        for user, place in places.items():
            assert place is not None
            name = f"{node.target}_into_{user.name}"
            module.add_submodule(name, FoldedGate(gate.gate_value, place.axis, place.groups))
            with module.graph.inserting_before(user):
                weight = module.graph.call_module(name, (user.args[place.operand], w))
            weight.meta["onnx_type"] = _type(user.args[place.operand])
            user.args = tuple(
                weight if i == place.operand else x if a is node else a for i, a in enumerate(user.args)
            )
        module.graph.erase_node(node)
        module.delete_submodule(str(node.target))
        folded += 1
    return folded


def _pays(gate: fx.Node, places: Mapping[fx.Node, _Place | None]) -> bool:
    """Whether the weights are fewer than the gated activations; so, too, where the file leaves these open."""
    x = shape(gate.args[0]) or ()
    free = x.index(None) if None in x else 0
    sizes = [size for axis, size in enumerate(x) if axis != free]
    if None in sizes:
        return True
    weights = [shape(user.args[place.operand]) for user, place in places.items() if place is not None]
    total = sum(math.prod(size or 1 for size in weight or ()) for weight in weights)
    return total <= _BATCH * math.prod(size or 1 for size in sizes)


def _type(node: Any) -> Any:
    return node.meta.get("onnx_type") if isinstance(node, fx.Node) else None


def _place(user: fx.Node, gate: fx.Node) -> _Place | None:
    """Where `user` can take over `gate`; None where it cannot."""
    if op(user) not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(user.args) < 2:
        return None
    at = [i for i, a in enumerate(user.args) if a is gate]
    x, w = shape(gate.args[0]), shape(gate.args[1])
    if len(at) != 1 or at[0] > 1 or x is None or w is None or len(w) > len(x):
        return None
    other = user.args[1 - at[0]]
    weight = shape(other)
    if weight is None or not _stored(other):
        return None
    gated = [axis for axis, size in enumerate((1,) * (len(x) - len(w)) + w) if size != 1]
    found = _met(user, at[0], len(x), len(weight))
    if found is None or gated != [found[0]]:
        return None
    summed, axis, groups = found
    channels = (weight[axis] or 0) * groups
    return _Place(1 - at[0], axis, groups) if channels == w[summed - len(x)] else None


def _met(user: fx.Node, at: int, rank: int, weight: int) -> tuple[int, int, int] | None:
    """The axis that operand `at` loses, the weight's that it meets, and in how many groups."""
    kind = op(user)
    if kind == "MatMul" and rank > 1 and weight > 1:
        return (rank - 2, weight - 1, 1) if at else (rank - 1, weight - 2, 1)
    if at or kind == "MatMul":
        return None
    if kind == "Conv":
        return 1, 1, setting(user, "group", 1)
    if kind == "ConvTranspose":
        return 1, 0, 1
    return int(not setting(user, "transA", 0)), int(bool(setting(user, "transB", 0))), 1


def _stored(node: Any) -> bool:
    """Whether it is a tensor of the module, or follows from one alone."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "get_attr":
        return True
    return node.op in ("call_function", "call_module") and bool(node.all_input_nodes) and all(
        map(_stored, node.all_input_nodes)
    )  # fmt: skip
