"""Gates moved from the activations into the weights they meet: the same function, without a cost per pixel.

A gate before a Conv, Gemm or MatMul scales the very channels that the op sums away, so scaling the weight's
entries of those channels instead changes nothing: sum_i (x_i m_i) W_i = sum_i x_i (m_i W_i). Gates with any
other reader stay where they are. Which of the two has fewer entries, activations or weights, is told when the
module runs, and the gates are there. On weights what a closed channel holds must be finite: 0 * infinity is NaN.
"""

import math
from typing import Any, NamedTuple

from torch import fx

from onnxprune.to_torch.fusion.match import op, setting, shape
from onnxprune.to_torch.ops.gate import FoldedGate, Gate


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
        if not places or any(place is None for place in places.values()):
            continue
        x, w = node.args
        gate.weights_instead = sum(
            _entries(user.args[place.operand]) for user, place in places.items() if place is not None
        )
        for user, place in places.items():
            assert place is not None
            name = f"{node.target}_into_{user.name}"
            module.add_submodule(name, _folded(gate, place))
            with module.graph.inserting_before(user):
                weight = module.graph.call_module(name, (user.args[place.operand], w, x))
            weight.meta["onnx_type"] = _type(user.args[place.operand])
            user.args = tuple(weight if i == place.operand else a for i, a in enumerate(user.args))
        folded += 1
    return folded


def _folded(gate: Gate, place: _Place) -> FoldedGate:
    assert gate.weights_instead is not None
    return FoldedGate(gate.gate_value, gate.weights_instead, place.axis, place.groups)


def _entries(weight: Any) -> int:
    return math.prod(size or 1 for size in shape(weight) or ())


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
