"""Sums, means, extremes and orders along axes."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints, Scalar, ints, number
from onnxprune.to_torch.registry import converts

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _whole(x: Tensor, axes: Ints | None, noop: int) -> list[int] | None:
    """The axes to reduce; None where the op leaves `x` as it is."""
    chosen = [] if axes is None else ints(axes)
    if chosen:
        return [a % x.dim() for a in chosen]
    return None if noop else list(range(x.dim()))


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return torch.div(_sum(x, axes, keep), math.prod([x.shape[a] for a in axes]), rounding_mode="trunc").to(
        x.dtype
    )


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _amax(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if math.prod([x.shape[a] for a in axes]) == 0:  # the identity of the maximum, as the specification has it
        return _empty(x, axes, keep, least=True)
    return x.amax(axes, keepdim=keep)


def _amin(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if math.prod([x.shape[a] for a in axes]) == 0:
        return _empty(x, axes, keep, least=False)
    return x.amin(axes, keepdim=keep)


def _empty(x: Tensor, axes: list[int], keep: bool, *, least: bool) -> Tensor:
    shape = [1 if a in axes else n for a, n in enumerate(x.shape) if keep or a not in axes]
    if x.dtype == torch.bool:
        return x.new_full(shape, not least)
    if x.is_floating_point():
        return x.new_full(shape, -math.inf if least else math.inf)
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.min if least else limits.max)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():  # whose gradient is 0 where all entries are, that of the root NaN
        norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keepdim=keep)
        return norm
    return _sum(x * x, axes, keep).sqrt().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep).to(x.dtype)


_REDUCTIONS: dict[str, tuple[int, _Reduction]] = {  # op: (opset that made axes an input, function)
    "ReduceSum": (13, _sum),
    "ReduceMean": (18, _mean),
    "ReduceProd": (18, _prod),
    "ReduceMax": (18, _amax),
    "ReduceMin": (18, _amin),
    "ReduceL1": (18, lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": (18, _l2),
    "ReduceSumSquare": (18, lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": (18, lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": (18, _log_sum_exp),
}


def reduction(
    x: Tensor, axes: Ints | None = None, *, op: str, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """The reduction `op` over `axes`, over all where there are none."""
    chosen = _whole(x, axes, noop_with_empty_axes)
    function = _REDUCTIONS[op][1]
    if chosen is None or not x.dim():
        # Nothing is summed, but the other half of the op (a square, an absolute value) still applies.
        return function(x.unsqueeze(0), [0], False)
    return function(x, chosen, bool(keepdims))


def _register(op: str, since: int) -> None:
    def by_attribute(x: Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
        return reduction(x, axes, op=op, keepdims=keepdims)

    def by_input(
        x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        return reduction(x, axes, op=op, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)

    for function, first in ((by_attribute, 1), (by_input, since)):
        function.__name__ = function.__qualname__ = f"{op}_{first}"
        globals()[function.__name__] = converts(op, since=first)(function)  # fx writes the call by this name


for _op, (_since, _) in _REDUCTIONS.items():
    _register(_op, _since)


@converts("ArgMax", since=1)
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _first(x, x.amax(axis, keepdim=True), axis, keepdims, select_last_index)


@converts("ArgMin", since=1)
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _first(x, x.amin(axis, keepdim=True), axis, keepdims, select_last_index)


def _first(x: Tensor, extreme: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    """Where `x` first (or last) equals `extreme`; torch.argmax leaves open which of equals it names."""
    hits = (x == extreme).to(torch.uint8)
    if last:
        return x.shape[axis] - 1 - hits.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return hits.argmax(axis, keepdim=bool(keepdims))


@converts("CumSum", since=11)
def cum_sum(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along = int(number(axis))
    x = x.flip(along) if reverse else x
    y = x.cumsum(along, dtype=x.dtype)
    y = y - x if exclusive else y
    return y.flip(along) if reverse else y


@converts("TopK", since=10)
def top_k_10(x: Tensor, k: Ints, *, axis: int = -1, n_outputs: int = 2) -> Tensor | tuple[Tensor, ...]:
    return top_k(x, k, axis=axis, n_outputs=n_outputs)


@converts("TopK", since=11)
def top_k(
    x: Tensor,
    k: Ints,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002
    n_outputs: int = 2,
) -> Tensor | tuple[Tensor, ...]:
    """Of equal entries the one with the lower index comes first."""
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    (count,) = ints(k)
    best = values.narrow(axis, 0, count), places.narrow(axis, 0, count)
    return best if n_outputs > 1 else best[0]


@converts("CumProd", since=26)
def cum_prod(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along = int(number(axis))
    x = x.flip(along) if reverse else x
    y = x.cumprod(along, dtype=x.dtype)
    if exclusive:
        y = torch.cat([torch.ones_like(y.narrow(along, 0, 1)), y.narrow(along, 0, y.shape[along] - 1)], along)
    return y.flip(along) if reverse else y
