"""Nonlinearities that exporters write out."""

import math
from itertools import permutations
from typing import Any

import torch.nn.functional as F
from torch import fx

from onnxprune.to_torch.fusion.match import alone, is_float, near, number, op, pairs, plus, product, setting
from onnxprune.to_torch.fusion.rules import call, fuses


@fuses("Mul", "Div")
def from_product(node: fx.Node) -> fx.Node | None:
    """Those that are `x`, a function of `x` and a number, multiplied: GELU, SiLU, Mish, hard swish."""
    whole = product(node)
    if len(whole.factors) != 2 or not is_float(node):
        return None
    for x, f in permutations(whole.factors):
        if not alone(f):
            continue
        if near(whole.number, 0.5) and (inner := plus(f, 1)) is not None and alone(inner):
            if op(inner) == "Erf" and _times(inner.args[0], math.sqrt(0.5), x):
                return call(node, F.gelu, x)
            if op(inner) == "Tanh" and _cubic(inner.args[0], x):
                return call(node, F.gelu, x, approximate="tanh")
        if near(whole.number, 1):
            if op(f) == "Sigmoid" and f.args[0] is x:
                return call(node, F.silu, x)
            if op(f) == "Tanh" and op(f.args[0]) == "Softplus" and _reads(f.args[0], x):
                return call(node, F.mish, x)
            if f.target is F.hardsigmoid and f.args[0] is x:
                return call(node, F.hardswish, x)
        if near(whole.number, 1 / 6) and _six(f) is x:
            return call(node, F.hardswish, x)
    return None


def _reads(node: Any, x: fx.Node) -> bool:
    return isinstance(node, fx.Node) and alone(node) and node.args[0] is x


def _times(value: Any, factor: float, *factors: fx.Node) -> bool:
    """Whether `value` is the product of these."""
    found = product(value)
    return near(found.number, factor) and found.factors == factors


def _cubic(value: Any, x: fx.Node) -> bool:
    """Whether `value` is sqrt(2 / pi) (x + 0.044715 x^3), or the same with one x put outside."""
    found = product(value)
    if not near(found.number, math.sqrt(2 / math.pi)):
        return False
    if len(found.factors) == 1:
        (total,) = found.factors
        return op(total) == "Add" and any(u is x and _times(v, 0.044715, x, x, x) for u, v in pairs(total))
    if len(found.factors) == 2 and x in found.factors:
        (total,) = (f for f in found.factors if f is not x)
        square = plus(total, 1)
        return square is not None and _times(square, 0.044715, x, x)
    return False


def _six(node: fx.Node) -> fx.Node | None:
    """The x of relu6(x + 3)."""
    if node.target is not F.relu6 or not isinstance(node.args[0], fx.Node) or not alone(node.args[0]):
        return None
    return plus(node.args[0], 3)


@fuses("Div", "Mul")
def hard_sigmoid_from_relu6(node: fx.Node) -> fx.Node | None:
    whole = product(node)
    if len(whole.factors) != 1 or not near(whole.number, 1 / 6) or not alone(whole.factors[0]):
        return None
    x = _six(whole.factors[0])
    return None if x is None else call(node, F.hardsigmoid, x)


@fuses("HardSigmoid")
def hard_sigmoid(node: fx.Node) -> fx.Node | None:
    slope, offset = setting(node, "alpha", 0.2), setting(node, "beta", 0.5)
    return call(node, F.hardsigmoid, node.args[0]) if near(slope, 1 / 6) and near(offset, 0.5) else None


@fuses("Clip")
def relu6(node: fx.Node) -> fx.Node | None:
    """One kernel backwards, where clamp takes four."""
    low, high = (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    if number(low) != 0 or number(high) != 6 or not is_float(node):
        return None
    return call(node, F.relu6, node.args[0])
