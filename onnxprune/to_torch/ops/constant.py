"""Values from attributes, shapes and types."""

import math
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints, Scalar, dtype_of, ints, number
from onnxprune.to_torch.registry import converts


@converts("Constant", since=1)
def constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_floats if value_float is None else value_float, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)


@converts("ConstantOfShape", since=9)
def constant_of_shape(shape: Ints, *, value: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    if value is None:
        return torch.zeros(ints(shape), device=None if like is None else like.device)
    return value.reshape(()).expand(ints(shape)).clone()


@converts("Shape", since=1)
def shape_1(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64, device=x.device)


@converts("Shape", since=15)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@converts("Size", since=1)
def size(x: Tensor) -> Tensor:
    return torch.tensor(math.prod(x.shape), dtype=torch.int64, device=x.device)


@converts("Range", since=11)
def range_(
    start: Scalar,
    limit: Scalar,
    delta: Scalar,
    *,
    stash_type: int = 1,
    result_type: int = 0,
    like: Tensor | None = None,
) -> Tensor:
    first, last, step = number(start), number(limit), number(delta)
    dtype = dtype_of(result_type or onnx.TensorProto.INT64)
    device = start.device if isinstance(start, Tensor) else None if like is None else like.device
    if not dtype.is_floating_point:
        return torch.arange(first, last, step, dtype=dtype, device=device)
    count = max(math.ceil((last - first) / step), 0)
    return start + delta * torch.arange(count, dtype=dtype, device=device)


@converts("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    ones = torch.ones(x.shape, device=x.device, dtype=torch.bool)
    return (ones.triu(k) & ones.tril(k)).to(x.dtype if dtype is None else dtype_of(dtype))


@converts("Trilu", since=14)
def trilu(x: Tensor, k: Scalar = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, int(number(k))) if upper else torch.tril(x, int(number(k)))


@converts("OneHot", since=9)
def one_hot(indices: Tensor, depth: Scalar, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values` are (off, on); an index out of range gives a row of off."""
    count = int(number(depth))
    axis = axis % (indices.dim() + 1)
    place = indices.to(torch.int64)
    place = torch.where(place < 0, place + count, place).unsqueeze(axis)
    classes = torch.arange(count, device=indices.device)
    hot = place == classes.reshape([-1] + [1] * (indices.dim() - axis))
    return torch.where(hot, values[1], values[0])
