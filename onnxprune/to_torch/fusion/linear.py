"""Affine maps that exporters write as a product and a sum."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from onnxprune.to_torch.fusion.match import alone, dtype, number, op, pairs, setting, shape
from onnxprune.to_torch.fusion.rules import call, fuses, view


@fuses("Add")
def linear(node: fx.Node) -> fx.Node | None:
    """`x W + b`, for a weight of rank 2 and a bias of rank 1."""
    for made, bias in pairs(node):
        if op(made) != "MatMul" or not alone(made):
            continue
        x, weight = made.args
        across, rank = shape(weight), shape(x)
        if across is None or len(across) != 2 or rank is None or len(rank) < 2 or across[1] is None:
            continue
        if shape(bias) == (across[1],) and dtype(bias) == dtype(weight) and dtype(bias) is not None:
            return call(node, F.linear, x, transposed(node, weight), bias)
    return None


def transposed(place: fx.Node, weight: Any) -> fx.Node:
    """The weight's transpose, or what it is the transpose of."""
    if op(weight) == "Transpose" and weight.kwargs.get("perm", (1, 0)) == (1, 0):
        return weight.args[0]  # type: ignore[no-any-return]
    return view(place, torch.t, weight)


@fuses("Gemm")
def plain_gemm(node: fx.Node) -> fx.Node | None:
    """One that is F.linear as it stands."""
    settings = node.kwargs
    if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1:
        return None
    x, weight, bias = (*node.args, None)[:3]
    across = shape(bias)
    if bias is not None and (across is None or len(across) != 1):
        return None
    return call(node, F.linear, x, weight if settings.get("transB", 0) else transposed(node, weight), bias)


@fuses("Gather")
def select(node: fx.Node) -> fx.Node | None:
    """One known entry of an axis, without a copy."""
    data, index = node.args
    place = number(index) if shape(index) == () else None
    axis, known = setting(node, "axis", 0), shape(data)
    if place is None or known is None or len(known) < 2:
        return None
    return call(node, torch.select, data, axis, int(place))


@fuses("Conv", "ConvTranspose")
def without_zeros(node: fx.Node) -> fx.Node | None:
    """Without the bias of zeros that PyTorch's exporter writes for none."""
    bias = node.args[2] if len(node.args) > 2 else None
    if op(bias) != "Expand" or number(bias.args[0]) != 0:  # type: ignore[union-attr]
        return None
    target: Any = node.target
    return call(node, target, *node.args[:2], op=op(node), **node.kwargs)
