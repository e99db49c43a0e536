"""Layer and root mean square normalisation that exporters write out, step by step from the inside.

The plain normalisation is found at its division; a scale and a shift join it at their own nodes.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from onnxprune.to_torch.fusion.match import alone, dtype, near, number, op, pairs, setting, shape
from onnxprune.to_torch.fusion.rules import call, fuses


@fuses("Div", "Mul")
def plain(node: fx.Node) -> fx.Node | None:
    """(x - mean) / sqrt(var + eps), or x / sqrt(mean square + eps)."""
    for x, root in _divisions(node):
        if op(root) != "Sqrt" or not alone(root) or not isinstance(root.args[0], fx.Node):
            continue
        mean, epsilon = _with_epsilon(root.args[0])
        if (
            mean is None
            or op(mean) != "ReduceMean"
            or not alone(mean)
            or not isinstance(mean.args[0], fx.Node)
        ):
            continue
        square = mean.args[0]
        if not alone(square):
            continue
        base = _squared(square)
        sizes = _trailing(mean)
        if base is None or sizes is None:
            continue
        known = isinstance(sizes, list)
        if (source := _centred(x, base, node, square, mean)) is not None:
            function: Callable[..., Tensor] = F.layer_norm if known else layer_norm_over
            return call(node, function, source, sizes, None, None, epsilon, op="LayerNormalization")
        if base is x:
            function = F.rms_norm if known else rms_norm_over
            return call(node, function, x, sizes, None, epsilon, op="RMSNormalization")
    return None


def layer_norm_over(
    x: Tensor, count: int, scale: Tensor | None, shift: Tensor | None, epsilon: float
) -> Tensor:
    """Over the last `count` axes, where the file leaves their sizes open."""
    sizes = x.shape[-count:]
    if all(p is None or p.shape == sizes for p in (scale, shift)):
        return F.layer_norm(x, sizes, scale, shift, epsilon)
    y = F.layer_norm(x, sizes, None, None, epsilon)
    y = y if scale is None else y * scale
    return y if shift is None else y + shift


def rms_norm_over(x: Tensor, count: int, scale: Tensor | None, epsilon: float) -> Tensor:
    """Over the last `count` axes, where the file leaves their sizes open."""
    sizes = x.shape[-count:]
    if scale is None or scale.shape == sizes:
        return F.rms_norm(x, sizes, scale, epsilon)
    return F.rms_norm(x, sizes, None, epsilon) * scale


def _divisions(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """(x, root) of x / root, x * (1 / root)."""
    if op(node) == "Div":
        return list(pairs(node))[:1]
    found = []
    for x, inverse in pairs(node):
        if op(inverse) == "Reciprocal" and alone(inverse):
            found.append((x, inverse.args[0]))
        elif op(inverse) == "Div" and near(number(inverse.args[0]), 1) and alone(inverse):
            found.append((x, inverse.args[1]))
    return found  # type: ignore[return-value]


def _with_epsilon(node: fx.Node) -> tuple[fx.Node | None, float]:
    if op(node) == "Add" and alone(node):
        for value, epsilon in (node.args, reversed(node.args)):
            if (known := number(epsilon)) is not None and isinstance(value, fx.Node):
                return value, known
    return None, 0.0


def _squared(node: fx.Node) -> Any:
    if op(node) == "Pow" and number(node.args[1]) == 2:
        return node.args[0]
    return node.args[0] if op(node) == "Mul" and node.args[0] is node.args[1] else None


def _trailing(mean: fx.Node) -> list[int] | int | None:
    """The sizes of the last axes, if the mean is over these and keeps them; how many where sizes are open."""
    known = shape(mean.args[0])
    axes: Any = mean.args[1] if len(mean.args) > 1 else mean.kwargs.get("axes")
    if not isinstance(axes, list | tuple) or not axes or not mean.kwargs.get("keepdims", 1):
        return None
    if known is None:
        return len(axes) if sorted(axes) == list(range(-len(axes), 0)) else None
    over = sorted(int(a) % len(known) for a in axes)
    sizes = known[-len(over) :]
    if over != list(range(len(known) - len(over), len(known))):
        return None
    return len(over) if None in sizes else [s for s in sizes if s is not None]


def _centred(x: fx.Node, base: fx.Node, last: fx.Node, square: fx.Node, mean: fx.Node) -> fx.Node | None:
    """The source of x, where both x and base are source - mean(source) and nothing else reads them."""
    if op(x) != "Sub" or op(base) != "Sub" or x.args != base.args:
        return None
    source, middle = x.args
    if op(middle) != "ReduceMean" or not isinstance(middle, fx.Node) or middle.args[0] is not source:
        return None
    same = middle.args[1:] == mean.args[1:] and middle.kwargs == mean.kwargs
    inside = {*x.users, *base.users} <= {last, square} and set(middle.users) <= {x, base}
    return source if same and inside and isinstance(source, fx.Node) else None


_LAYER = (F.layer_norm, layer_norm_over)
_RMS = (F.rms_norm, rms_norm_over)


def _takes(made: fx.Node, place: int, parameter: fx.Node) -> bool:
    """Whether `made` is a normalisation that nothing else reads, with room for a parameter of its sizes."""
    if made.target not in _LAYER + _RMS or not alone(made) or made.args[place] is not None:
        return False
    sizes, over = shape(parameter), made.args[1]
    if sizes is None or dtype(parameter) != dtype(made):
        return False
    return (
        list(sizes) == over if isinstance(over, list) else parameter.op == "get_attr" and len(sizes) == over
    )


@fuses("Mul")
def scaled(node: fx.Node) -> fx.Node | None:
    """A plain normalisation with a scale of just its sizes."""
    for made, scale in pairs(node):
        if _takes(made, 2, scale):
            target: Any = made.target
            return call(node, target, *made.args[:2], scale, *made.args[3:], op=op(made))
    return None


@fuses("Add")
def shifted(node: fx.Node) -> fx.Node | None:
    """A layer normalisation with a shift of just its sizes."""
    for made, shift in pairs(node):
        if made.target in _LAYER and _takes(made, 3, shift):
            x, sizes, scale, _, epsilon = made.args
            target: Any = made.target
            return call(node, target, x, sizes, scale, shift, epsilon, op="LayerNormalization")
    return None


@fuses("LayerNormalization")
def layer_norm(node: fx.Node) -> fx.Node | None:
    """The op itself, where scale and shift are just of its sizes."""
    x, scale, shift = (*node.args, None)[:3]
    known, axis = shape(x), setting(node, "axis", -1)
    if node.target in _LAYER or known is None or setting(node, "n_outputs", 1) != 1:
        return None
    sizes = known[axis:]
    if any(s is None for s in sizes) or any(p is not None and shape(p) != sizes for p in (scale, shift)):
        return None
    epsilon = setting(node, "epsilon", 1e-5)
    return call(node, F.layer_norm, x, list(sizes), scale, shift, epsilon, op="LayerNormalization")
