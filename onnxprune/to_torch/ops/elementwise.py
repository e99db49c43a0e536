"""Element by element: arithmetic, comparisons, logic, bits."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Scalar
from onnxprune.to_torch.registry import converts

_UNARY: tuple[tuple[str, int, Callable[[Tensor], Tensor]], ...] = (
    ("Abs", 1, torch.abs),
    ("Acos", 7, torch.acos),
    ("Acosh", 9, torch.acosh),
    ("Asin", 7, torch.asin),
    ("Asinh", 9, torch.asinh),
    ("Atan", 7, torch.atan),
    ("Atanh", 9, torch.atanh),
    ("BitwiseNot", 18, torch.bitwise_not),
    ("Ceil", 1, torch.ceil),
    ("Cos", 7, torch.cos),
    ("Cosh", 9, torch.cosh),
    ("Erf", 9, torch.erf),
    ("Exp", 1, torch.exp),
    ("Floor", 1, torch.floor),
    ("IsNaN", 9, torch.isnan),
    ("Log", 1, torch.log),
    ("Neg", 1, torch.neg),
    ("Not", 1, torch.logical_not),
    ("Reciprocal", 1, torch.reciprocal),
    ("Round", 11, torch.round),
    ("Sign", 9, torch.sign),
    ("Sin", 7, torch.sin),
    ("Sinh", 9, torch.sinh),
    ("Sqrt", 1, torch.sqrt),
    ("Tan", 7, torch.tan),
)
_BINARY: tuple[tuple[str, int, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("Add", 7, torch.add),
    ("Sub", 7, torch.sub),
    ("Mul", 7, torch.mul),
    ("And", 7, torch.logical_and),
    ("Or", 7, torch.logical_or),
    ("Xor", 7, torch.logical_xor),
    ("BitwiseAnd", 18, torch.bitwise_and),
    ("BitwiseOr", 18, torch.bitwise_or),
    ("BitwiseXor", 18, torch.bitwise_xor),
    ("Equal", 7, torch.eq),
    ("Greater", 7, torch.gt),
    ("GreaterOrEqual", 12, torch.ge),
    ("Less", 7, torch.lt),
    ("LessOrEqual", 12, torch.le),
)
for _op, _since, _unary in _UNARY:
    converts(_op, since=_since, inputs=1)(_unary)
for _op, _since, _binary in _BINARY:
    converts(_op, since=_since, inputs=2)(_binary)

converts("Where", since=9, inputs=3)(torch.where)


@converts("Div", since=7)
def div(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@converts("Pow", since=7)
def pow_(base: Tensor, exponent: Tensor) -> Tensor:
    """In the type of the base."""
    if exponent.dim() == 0 and exponent.dtype == base.dtype:
        return base**exponent
    return torch.pow(base, exponent).to(base.dtype)


@converts("Mod", since=10)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@converts("BitShift", since=11)
def bit_shift(x: Tensor, by: Tensor, *, direction: str) -> Tensor:
    return x << by if direction == "LEFT" else x >> by


@converts("Sum", since=1)
def sum_(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs)


@converts("Mean", since=1)
def mean(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs) / len(xs)


@converts("Max", since=1)
def max_(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, xs)


@converts("Min", since=1)
def min_(*xs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, xs)


@converts("Clip", since=6)
def clip_6(x: Tensor, *, min: float = -3.4028235e38, max: float = 3.4028235e38) -> Tensor:  # noqa: A002
    return torch.clamp(x, min, max)


@converts("Clip", since=11)
def clip(x: Tensor, lower: Scalar | None = None, upper: Scalar | None = None) -> Tensor:
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor):
        return x if lower is None and upper is None else torch.clamp(x, lower, upper)
    if lower is not None:
        x = torch.clamp(x, min=lower)
    return x if upper is None else torch.clamp(x, max=upper)


@converts("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    infinite = torch.isinf(x)
    if detect_negative and detect_positive:
        return infinite
    return infinite & ((x < 0) if detect_negative else (x > 0) & bool(detect_positive))
