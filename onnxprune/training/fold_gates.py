"""Gates moved from the activations into the weights they meet: the same function, without a cost per pixel.

A gate before a Conv, Gemm or MatMul scales the very channels that the op sums away, so scaling the weight's
entries of those channels instead changes nothing: sum_i (x_i m_i) W_i = sum_i x_i (m_i W_i). Only the
training module is changed; names, and what is written back, stay. Gates with any other reader stay where
they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from onnxprune.to_torch.conv import conv, conv_transpose
from onnxprune.to_torch.gate import Gate
from onnxprune.to_torch.linear import gemm, matmul


class FoldedGate(nn.Module):
    """`weight` with its entries along `axis` times `gate_value(w)`."""

    def __init__(self, gate_value: Callable[[Tensor], Tensor], axis: int) -> None:
        super().__init__()
        self.gate_value, self.axis = gate_value, axis

    def forward(self, weight: Tensor, w: Tensor) -> Tensor:
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        return weight * self.gate_value(w).to(weight.dtype).reshape(shape)


def fold_gates(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> int:
    """Fold what can be, in place; returns how many gates. `inputs` are any batch, to learn shapes from."""
    shapes = _shapes(module, inputs)
    folded = 0
    for node in list(module.graph.nodes):
        gate = module.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(gate, Gate):
            continue
        x, w = node.args
        axes = {user: _weight_axis(user, node, shapes) for user in node.users}
        if any(axis is None for axis in axes.values()):
            continue
        for user, axis in axes.items():
            assert axis is not None
            name = f"{node.target}_into_{user.name}"
            module.add_submodule(name, FoldedGate(gate.gate_value, axis))
            with module.graph.inserting_before(user):
                weight = module.graph.call_module(name, (user.args[1], w))
            user.args = (x, weight, *user.args[2:])
        module.graph.erase_node(node)
        folded += 1
    module.delete_all_unused_submodules()
    module.recompile()
    return folded


def _weight_axis(user: fx.Node, gate: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> int | None:
    """The axis of `user`'s second operand that meets the gated axis of its first; None where none does."""
    if user.op != "call_function" or len(user.args) < 2 or gate in user.args[1:]:
        return None
    x, w, weight = shapes[gate], shapes[gate.args[1]], shapes.get(user.args[1], ())  # type: ignore[index, arg-type]
    w = (1,) * (len(x) - len(w)) + w
    gated = [axis for axis, size in enumerate(w) if size > 1]
    keywords = user.kwargs
    if user.target is conv and keywords.get("group", 1) == 1:
        summed, axis = 1, 1
    elif user.target is conv_transpose and keywords.get("group", 1) == 1:
        summed, axis = 1, 0
    elif user.target is gemm and not keywords.get("transA", 0):
        summed, axis = 1, int(bool(keywords.get("transB", 0)))
    elif user.target is matmul and len(weight) == 2:
        summed, axis = len(x) - 1, 0
    else:
        return None
    return axis if gated == [summed] and weight[axis] == w[summed] else None


def _shapes(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor in the graph for these inputs."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                shapes[n] = tuple(result.shape)
            return result

    with torch.no_grad():
        Record(module).run(*inputs)
    return shapes
