"""Arithmetic on uint16, uint32 and uint64, which PyTorch stores but does not add, compare or reduce.

Steps with such operands look here first. Sums and products wrap around as the type would: int64 holds
uint16 and uint32, and has the bits of uint64.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints, Scalar
from onnxprune.to_torch.ops import reduce
from onnxprune.to_torch.ops.constant import trilu
from onnxprune.to_torch.ops.index import scatter_nd
from onnxprune.to_torch.ops.reduce import arg_max, arg_min, cum_sum
from onnxprune.to_torch.registry import converts

WIDE_UNSIGNED = "wide unsigned"  # the registry's domain for these converters
_LOWEST = torch.iinfo(torch.int64).min
_HIGHEST = torch.iinfo(torch.int64).max
_Lower = Callable[[Tensor, torch.dtype], Tensor]


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int64) if x.dtype == torch.uint64 else x.to(torch.int64)


def _ranked(x: Tensor) -> Tensor:
    """int64 in the order of `x`."""
    return _bits(x) ^ _LOWEST if x.dtype == torch.uint64 else _bits(x)


def _unranked(rank: Tensor, dtype: torch.dtype) -> Tensor:
    return (rank ^ _LOWEST if dtype == torch.uint64 else rank).to(dtype)


def _arithmetic(op: str, since: int, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def wrapped(a: Tensor, b: Tensor) -> Tensor:
        return function(_bits(a), _bits(b)).to(a.dtype)

    _name(wrapped, op, since)


def _comparison(op: str, since: int, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def compared(a: Tensor, b: Tensor) -> Tensor:
        return function(_ranked(a), _ranked(b))

    _name(compared, op, since)


def _name(function: Callable[..., Tensor], op: str, since: int) -> None:
    function.__name__ = function.__qualname__ = f"{op}_{since}"
    globals()[function.__name__] = converts(op, since=since, domain=WIDE_UNSIGNED)(function)  # fx calls it so


for _op, _since, _binary in (("Add", 7, torch.add), ("Sub", 7, torch.sub), ("MatMul", 1, torch.matmul)):
    _arithmetic(_op, _since, _binary)
for _op, _since, _binary in (
    ("Greater", 7, torch.gt),
    ("GreaterOrEqual", 12, torch.ge),
    ("Less", 7, torch.lt),
    ("LessOrEqual", 12, torch.le),
):
    _comparison(_op, _since, _binary)


@converts("Div", since=7, domain=WIDE_UNSIGNED)
def div(a: Tensor, b: Tensor) -> Tensor:
    dividend, divisor = _bits(a), _bits(b)
    if a.dtype != torch.uint64:
        return torch.div(dividend, divisor, rounding_mode="trunc").to(a.dtype)
    # Half the dividend fits int64: twice that quotient is at most one too small. A divisor above int64 goes once.
    half = torch.div((dividend >> 1) & _HIGHEST, divisor.clamp(min=1), rounding_mode="trunc") * 2
    missing = (dividend - half * divisor) ^ _LOWEST >= divisor ^ _LOWEST
    once = dividend ^ _LOWEST >= divisor ^ _LOWEST
    return torch.where(divisor < 0, once.to(torch.int64), half + missing.to(torch.int64)).to(a.dtype)


@converts("Mod", since=10, domain=WIDE_UNSIGNED)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return (_bits(a) - _bits(div(a, b)) * _bits(b)).to(a.dtype)


@converts("BitwiseNot", since=18, domain=WIDE_UNSIGNED)
def bitwise_not(x: Tensor) -> Tensor:
    return (~_bits(x)).to(x.dtype)


@converts("BitShift", since=11, domain=WIDE_UNSIGNED)
def bit_shift(x: Tensor, by: Tensor, *, direction: str) -> Tensor:
    bits, places = _bits(x), _bits(by)
    if direction == "LEFT":
        return (bits << places).to(x.dtype)
    filled = bits >> places  # with ones from the left where a uint64 has its highest bit
    return torch.where(places > 0, filled & (_HIGHEST >> (places - 1).clamp(min=0)), bits).to(x.dtype)


@converts("Abs", since=1, domain=WIDE_UNSIGNED)
def abs_(x: Tensor) -> Tensor:
    return x


@converts("Sign", since=9, domain=WIDE_UNSIGNED)
def sign(x: Tensor) -> Tensor:
    return (x != 0).to(x.dtype)


@converts("NonZero", since=9, domain=WIDE_UNSIGNED)
def non_zero(x: Tensor) -> Tensor:
    return (x != 0).nonzero().t()


def _reduction(op: str, since: int, lift: Callable[[Tensor], Tensor], lower: _Lower) -> None:
    plain: Callable[..., Tensor] = getattr(reduce, f"{op}_{since}")

    @functools.wraps(plain)
    def reduced(x: Tensor, *axes: Ints, **attributes: int) -> Tensor:
        return lower(plain(lift(x), *axes, **attributes), x.dtype)

    reduced.__module__ = __name__
    _name(reduced, op, since)


for _op, _since in (("ReduceSum", 13), ("ReduceProd", 18), ("ReduceL1", 18), ("ReduceSumSquare", 18)):
    for _version in (1, _since):
        _reduction(_op, _version, _bits, torch.Tensor.to)
for _op in ("ReduceMax", "ReduceMin"):
    for _version in (1, 18):
        _reduction(_op, _version, _ranked, _unranked)


@converts("ArgMax", since=1, domain=WIDE_UNSIGNED)
def arg_max_(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return arg_max(_ranked(x), axis=axis, keepdims=keepdims, select_last_index=select_last_index)


@converts("ArgMin", since=1, domain=WIDE_UNSIGNED)
def arg_min_(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return arg_min(_ranked(x), axis=axis, keepdims=keepdims, select_last_index=select_last_index)


@converts("CumSum", since=11, domain=WIDE_UNSIGNED)
def cum_sum_(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return cum_sum(_bits(x), axis, exclusive=exclusive, reverse=reverse).to(x.dtype)


@converts("Trilu", since=14, domain=WIDE_UNSIGNED)
def trilu_(x: Tensor, k: Scalar = 0, *, upper: int = 1) -> Tensor:
    return trilu(_bits(x), k, upper=upper).to(x.dtype)


@converts("ScatterND", since=11, domain=WIDE_UNSIGNED)
def scatter_nd_(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction in ("max", "min"):
        extreme = scatter_nd(_ranked(data), indices, _ranked(updates), reduction=reduction)
        return _unranked(extreme, data.dtype)
    return scatter_nd(_bits(data), indices, _bits(updates), reduction=reduction).to(data.dtype)
