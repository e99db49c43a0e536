"""Shape arithmetic on Python numbers.

What a graph computes from `Shape` (the batch size for a Reshape, say) is worth nothing as tensors: on a GPU
each use would wait for the device, and torch.compile would break the graph. These rules stand for the same
ops where a value of rank 0 or 1 holds integers, booleans or float32 and descends from `Shape`: a number is a
rank-0 value, a list a rank-1 value. Their signatures are the converters', the ONNX schema. `RULES` make integers and
booleans, `FRACTIONS` numbers as float32 has them (the pads of a convolution are often half of something).
"""

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

Value: TypeAlias = int | list[int]
Numbers: TypeAlias = float | list[float]
Table: TypeAlias = list[list[int]]
T = TypeVar("T", int, list[int])

TABLE_OPS = {"Reshape", "Slice", "Transpose"}  # the ways that exporters turn pads round; they take rank 2 too

Rules: TypeAlias = dict[str, Callable[..., Any]]
RULES: Rules = {}
FRACTIONS: Rules = {}


def _rule(*ops: str, of: Rules = RULES) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        of.update(dict.fromkeys(ops, rule))
        return rule

    return register


def tensor(value: Numbers, like: Any, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor where `like` is; of a sequence or nothing, on the CPU."""
    return torch.tensor(value, dtype=dtype, device=like.device if isinstance(like, Tensor) else None)


@_rule("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Value:
    return list(x.shape[start:end])


@_rule("Size")
def size(x: Tensor) -> Value:
    return math.prod(x.shape)


@_rule("Gather")
def gather(data: list[int], indices: Value, *, axis: int = 0) -> Value:
    return [data[i] for i in indices] if isinstance(indices, list) else data[indices]


@_rule("Slice")
def slice_(data: list[T], starts: Value, ends: Value, axes: Value = 0, steps: Value = 1) -> list[T]:
    """Along the first axis, rows of a table too."""
    (start,), (end,), (step,) = _many(starts), _many(ends), _many(steps)
    if step < 0 and end < -len(data):
        return data[start::step]
    return data[start:end:step]


@_rule("Concat")
def concat(*parts: list[int], axis: int) -> Value:
    return [v for part in parts for v in part]


@_rule("Unsqueeze")
def unsqueeze(data: Value, axes: Any = (0,)) -> Value:
    return _many(data)


@_rule("Squeeze")
def squeeze(data: Value, axes: Any = (0,)) -> Value:
    return _many(data)[0]


def _reduction(op: str, function: Callable[[list[int]], int]) -> None:
    def rule(data: Value, axes: Any = (0,), *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        result = function(_many(data))
        return [result] if keepdims else result

    rule.__name__ = rule.__qualname__ = op.lower()
    globals()[rule.__name__] = _rule(op)(rule)  # fx writes the call by this name


_REDUCTIONS: dict[str, Callable[[list[int]], int]] = {
    "ReduceProd": math.prod,
    "ReduceSum": sum,
    "ReduceMax": max,
    "ReduceMin": min,
}
for _op, _reduced in _REDUCTIONS.items():
    _reduction(_op, _reduced)


@_rule("Reshape")
def reshape(data: Value | Table, shape: list[int], *, allowzero: int = 0) -> Value | Table:
    flat: list[int] = []
    for entry in data if isinstance(data, list) else [data]:
        flat += entry if isinstance(entry, list) else [entry]
    if len(shape) < 2:
        return flat if shape else flat[0]
    columns = len(flat) // shape[0] if shape[1] == -1 else shape[1]
    return [flat[i : i + columns] for i in range(0, len(flat), columns)]


@_rule("Transpose")
def transpose(data: Table, *, perm: tuple[int, ...] = (1, 0)) -> Table:
    return [list(column) for column in zip(*data, strict=True)] if tuple(perm) == (1, 0) else data


@_rule("Identity")
def identity(data: Value) -> Value:
    return data


@_rule("Cast")
def cast(data: Numbers, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    """Fractions towards zero."""
    return _each(lambda v: torch.sym_int(v) if _is_fraction(v) else v, data)


@_rule("Where")
def where(condition: Value, x: Value, y: Value) -> Value:
    return _aligned(lambda c, a, b: a if c else b, condition, x, y)


@_rule("ConstantOfShape")
def constant_of_shape(shape: list[int], *, value: int = 0) -> Value:
    return [value] * shape[0] if shape else value


@_rule("Range")
def range_(start: Value, limit: Value, delta: Value) -> Value:
    return list(range(_many(start)[0], _many(limit)[0], _many(delta)[0]))


def _each(function: Callable[[Any], Any], data: Numbers) -> Any:
    return [function(v) for v in data] if isinstance(data, list) else function(data)


def _many(value: Value | tuple[int, ...]) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _aligned(function: Callable[..., int], *operands: Value) -> Value:
    """`function` entry by entry, with numpy's broadcasting."""
    if not any(isinstance(o, list) for o in operands):
        return function(*operands)
    lists = [_many(o) for o in operands]
    length = max((len(v) for v in lists if len(v) != 1), default=1)
    return [
        function(*entry) for entry in zip(*(v * length if len(v) == 1 else v for v in lists), strict=True)
    ]


@_rule("Mod")
def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """With the sign of the divisor, or with `fmod` of the dividend."""
    return _aligned(lambda x, y: x - y * quotient(x, y) if fmod else x % y, a, b)


def quotient(a: int, b: int) -> int:
    """Integer division towards zero, ONNX's Div."""
    return a // b if (a >= 0) == (b >= 0) else -(-a // b)


def _elementwise(op: str, function: Callable[..., Any], suffix: str = "_", of: Rules = RULES) -> None:
    def rule(*operands: Any, axis: int | None = None, broadcast: int = 0) -> Any:
        return _aligned(function, *operands)

    rule.__name__ = rule.__qualname__ = op.lower() + suffix
    globals()[rule.__name__] = _rule(op, of=of)(rule)  # fx writes the call by this name


_ENTRYWISE: dict[str, Callable[..., int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": quotient,
    "Neg": operator.neg,
    "Abs": abs,
    "Min": min,
    "Max": max,
    "Equal": operator.eq,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Not": operator.not_,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
for _op, _function in _ENTRYWISE.items():
    _elementwise(_op, _function)


# ---- float32: an int where it is whole, which symbols are best for


def single(x: float) -> float:
    """The number of float32 nearest to `x`, after Veltkamp; of a whole number that is traced, `x`."""
    if isinstance(x, int | torch.SymInt) and (torch.compiler.is_compiling() or abs(x) <= 2**24):
        return x
    scaled = x * (2.0**29 + 1)
    return scaled - (scaled - x)


def floats(data: Numbers) -> Any:
    return _each(lambda v: v * 1.0, data)


def _is_fraction(x: Any) -> bool:
    return isinstance(x, float | torch.SymFloat)


@_rule("Cast", of=FRACTIONS)
def to_single(data: Numbers, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    return _each(single, data)


@_rule("Clip", of=FRACTIONS)
def clip(data: Numbers, least: float | None = None, most: float | None = None, **bounds: float) -> Any:
    """The bounds are attributes up to opset 10."""
    low, high = bounds.get("min", least), bounds.get("max", most)
    data = data if low is None else _each(lambda v: max(v, low), data)
    return data if high is None else _each(lambda v: min(v, high), data)


def _rounded(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *operands: single(function(*operands))


FRACTIONS |= {
    op: RULES[op] for op in ("Identity", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Where")
}
_FLOATING: dict[str, Callable[..., float]] = {
    "Add": _rounded(operator.add),
    "Sub": _rounded(operator.sub),
    "Mul": _rounded(operator.mul),
    "Div": _rounded(operator.truediv),
    "Neg": operator.neg,
    "Abs": abs,
    "Min": min,
    "Max": max,
    "Ceil": lambda x: math.ceil(x) if _is_fraction(x) else x,
    "Floor": lambda x: math.floor(x) if _is_fraction(x) else x,
}
for _op, _float in _FLOATING.items():
    _elementwise(_op, _float, "_single", FRACTIONS)
