"""What a rule asks of a node: its op, its operands' values and types, the factors of a product."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from onnxprune.to_torch import sizes
from onnxprune.to_torch.operands import DTYPES

_NUMERIC: dict[str, Callable[..., Tensor]] = {
    "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Div": torch.div, "Mul": torch.mul, "Add": torch.add,
    "Sub": torch.sub, "Pow": torch.pow, "Neg": torch.neg,
}  # fmt: skip
_UNCHANGED = ("Cast", "CastLike", "Identity")
_DEEPEST = 8  # operations between a constant and where it is written


def op(node: Any) -> str:
    """The ONNX op that the node stands for; "" for what is no node of the file."""
    return cast(str, node.meta.get("onnx", ("", ""))[0]) if isinstance(node, fx.Node) else ""


def setting(node: fx.Node, name: str, default: Any) -> Any:
    """An attribute of the ONNX node, as its converter takes it."""
    return node.kwargs.get(name, default)


def alone(node: fx.Node) -> bool:
    """Whether one node only reads it."""
    return len(node.users) == 1


def shape(node: Any) -> tuple[int | None, ...] | None:
    """The sizes that the file gives; None for one that is open, or for all where not even the rank is known."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        return tuple(attribute(node).shape)
    known = node.meta.get("onnx_type")
    if known is None or not known.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in known.tensor_type.shape.dim)


def dtype(node: Any) -> torch.dtype | None:
    """The element type in the file, None where it is not known."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        return attribute(node).dtype
    known = node.meta.get("onnx_type")
    return DTYPES.get(known.tensor_type.elem_type) if known is not None else None


def is_float(node: Any) -> bool:
    found = dtype(node)
    return found is not None and found.is_floating_point


def attribute(node: fx.Node) -> Tensor:
    """The tensor that a get_attr node reads."""
    found: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return cast(Tensor, found)


def number(value: Any) -> float | None:
    """A number that training leaves alone, from a constant, or computed from constants and fixed sizes."""
    found = _constant(value, _DEEPEST)
    return float(found) if found is not None and found.dim() == 0 else None


def _constant(value: Any, depth: int) -> Tensor | None:
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    if not isinstance(value, fx.Node) or depth == 0:
        return None
    if value.op == "get_attr":
        tensor = attribute(value)
        return None if isinstance(tensor, torch.nn.Parameter) or tensor.numel() != 1 else tensor.squeeze()
    if value.target is sizes.tensor:
        size = fixed(value.args[0])
        size = size[0] if isinstance(size, list) and len(size) == 1 else size
        return torch.tensor(float(size)) if isinstance(size, int | float) else None
    if op(value) in _UNCHANGED:
        return _constant(value.args[0], depth - 1)
    if op(value) in _NUMERIC:
        operands = [_constant(a, depth - 1) for a in value.args]
        if all(o is not None for o in operands):
            return _NUMERIC[op(value)](*(cast(Tensor, o).double() for o in operands))
    return None


class _Open:
    """A size that the file leaves open."""


def fixed(value: Any) -> Any:
    """What shape arithmetic gives for the sizes that the file fixes, with `_Open` for others; None where nothing.

    Axis 0 counts as open: a file exported for one batch size trains with others.
    """
    if isinstance(value, list | tuple):
        return [fixed(v) for v in value]
    if not isinstance(value, fx.Node):
        return value
    if value.target is sizes.shape:
        dims = shape(value.args[0])
        if dims is None:
            return None
        known: list[Any] = [_Open() if d is None or not i else d for i, d in enumerate(dims)]
        return known[setting(value, "start", 0) : setting(value, "end", None)]
    if value.target not in (*sizes.RULES.values(), *sizes.FRACTIONS.values()):
        return None
    operands = [fixed(a) for a in value.args]
    if any(o is None for o in operands):
        return None
    try:
        return cast(Any, value.target)(*operands, **value.kwargs)
    except (TypeError, IndexError, ValueError):  # arithmetic on an open size
        return None


def near(value: float | None, expected: float, tolerance: float = 1e-6) -> bool:
    """Whether `value` is `expected`, as float32 holds it."""
    return value is not None and math.isclose(value, expected, rel_tol=tolerance)


@dataclass(frozen=True)
class Product:
    """`number` times the product of `factors`."""

    number: float
    factors: tuple[fx.Node, ...]


def product(value: Any) -> Product:
    """`value` as a product, through every Mul, division by a number and whole power that nothing else reads."""
    total, factors = 1.0, list[fx.Node]()
    for part in _parts(value, root=True):
        if isinstance(part, float):
            total *= part
        else:
            factors.append(part)
    return Product(total, tuple(factors))


def _parts(value: Any, *, root: bool) -> Iterator[float | fx.Node]:
    if (known := number(value)) is not None:
        yield known
    elif isinstance(value, fx.Node) and (root or alone(value)) and op(value) == "Mul":
        for operand in value.args:
            yield from _parts(operand, root=False)
    elif (
        isinstance(value, fx.Node) and (root or alone(value)) and op(value) == "Div" and number(value.args[1])
    ):
        yield 1 / cast(float, number(value.args[1]))
        yield from _parts(value.args[0], root=False)
    elif isinstance(value, fx.Node) and (root or alone(value)) and op(value) == "Pow" and (
        number(value.args[1]) in (2.0, 3.0)
    ):  # fmt: skip
        yield from [cast(fx.Node, value.args[0])] * int(cast(float, number(value.args[1])))
    elif isinstance(value, fx.Node):
        yield value


def plus(value: Any, expected: float) -> fx.Node | None:
    """The u of `u + expected`."""
    if op(value) != "Add":
        return None
    for u, n in (value.args, reversed(value.args)):
        if near(number(n), expected) and isinstance(u, fx.Node):
            return u
    return None


def pairs(value: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Both orders of a node's two operands, where both are nodes."""
    a, b = value.args[:2]
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        yield a, b
        if a is not b:
            yield b, a
