"""BatchNormalization in eval mode, computed in the weights of the convolution before it, which is less work."""

from typing import Any

import torch
from torch import Tensor, fx

from onnxprune.to_torch.ops.conv import conv
from onnxprune.to_torch.ops.norm import BatchNormalization


def fold_norms(module: fx.GraphModule) -> fx.GraphModule:
    """The same function and parameters, of a module of to_torch.load that stays in eval mode; changed in place.

    The convolution's weights are scaled anew at each call, so that all of them can be trained.
    """
    graph = module.graph
    for node in list(graph.nodes):
        norm = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if node.args else None
        if not (isinstance(norm, BatchNormalization) and _is_plain(norm) and isinstance(before, fx.Node)):
            continue
        if before.target is not conv or len(before.users) > 1:
            continue
        x, weight, bias = (*before.args, None)[:3]
        with graph.inserting_before(node):
            both = graph.call_function(
                conv_and_norm,
                (x, weight, bias, *node.args[1:]),
                {**before.kwargs, "epsilon": norm.epsilon},
            )
        both.meta |= node.meta
        node.replace_all_uses_with(both)
        graph.erase_node(node)
        graph.erase_node(before)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _is_plain(norm: BatchNormalization) -> bool:
    """Whether it scales and shifts each channel by running statistics."""
    return bool(norm.spatial) and not norm.training and not getattr(norm, "training_mode", 0)


def conv_and_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor,
    *, epsilon: float, **how: Any,
) -> Tensor:  # fmt: skip
    """Conv, then BatchNormalization with these statistics, as one convolution."""
    factor = scale * torch.rsqrt(var + epsilon)
    offset = -mean if bias is None else bias - mean
    wide = (-1, *[1] * (weight.dim() - 1))
    scaled, constant = weight * factor.reshape(wide), shift + offset * factor
    return conv(x, scaled.to(weight.dtype), constant.to(weight.dtype), **how)
