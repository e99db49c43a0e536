"""Group normalisation, which exporters before opset 18 write as an instance normalisation of groups as channels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from onnxprune.to_torch.fusion.match import alone, attribute, dtype, op, pairs, setting, shape
from onnxprune.to_torch.fusion.rules import call, fuses, view
from onnxprune.to_torch.sizes import shape as shape_of


@fuses("Reshape")
def plain(node: fx.Node) -> fx.Node | None:
    """Reshape(InstanceNormalization(Reshape(x, [0, groups, -1]), 1, 0), shape of x)."""
    normed: Any = node.args[0]
    if op(normed) != "InstanceNormalization" or not alone(normed):
        return None
    grouped, scale, shift = normed.args
    if op(grouped) != "Reshape" or not alone(grouped) or not (_all(scale, 1) and _all(shift, 0)):
        return None
    x, sizes = grouped.args
    known, groups = shape(x), shape(scale)
    if known is None or groups is None or len(known) < 3 or known[1] is None or not _has_shape_of(node, x):
        return None
    batches = (0, known[0]) if known[0] else (0,)
    if not isinstance(sizes, list) or len(sizes) != 3 or sizes[0] not in batches or sizes[1] != groups[0]:
        return None
    if known[1] % sizes[1] or setting(grouped, "allowzero", 0):
        return None
    epsilon = setting(normed, "epsilon", 1e-5)
    return call(node, F.group_norm, x, sizes[1], None, None, epsilon, op="GroupNormalization")


def _has_shape_of(node: fx.Node, x: fx.Node) -> bool:
    sizes: Any = node.args[1]
    if isinstance(sizes, fx.Node) and sizes.target is shape_of:
        return sizes.args == (x,) and not (setting(sizes, "start", 0) or setting(sizes, "end", None))
    return shape(node) == shape(x)


def _all(node: Any, value: float) -> bool:
    """Whether it is a tensor that training leaves alone, of this value throughout."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or isinstance(attribute(node), nn.Parameter):
        return False
    return bool((attribute(node) == value).all())


@fuses("Mul")
def scaled(node: fx.Node) -> fx.Node | None:
    for made, scale in pairs(node):
        if _takes(made, 2, scale):
            x, groups, _, _, epsilon = made.args
            flat = view(node, torch.flatten, scale)
            return call(node, F.group_norm, x, groups, flat, None, epsilon, op="GroupNormalization")
    return None


@fuses("Add")
def shifted(node: fx.Node) -> fx.Node | None:
    for made, shift in pairs(node):
        if _takes(made, 3, shift):
            x, groups, scale, _, epsilon = made.args
            flat = view(node, torch.flatten, shift)
            return call(node, F.group_norm, x, groups, scale, flat, epsilon, op="GroupNormalization")
    return None


def _takes(made: fx.Node, place: int, per_channel: fx.Node) -> bool:
    """Whether `made` is a plain group norm that nothing else reads, and the other one entry for each channel."""
    if made.target is not F.group_norm or not alone(made) or made.args[place] is not None:
        return False
    known, sizes = shape(made.args[0]), shape(per_channel)
    if known is None or sizes is None or dtype(per_channel) != dtype(made):
        return False
    wanted = (known[1], *[1] * (len(known) - 2))
    return sizes in (wanted, (1, *wanted))
