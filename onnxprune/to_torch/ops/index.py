"""Entries picked and placed by index."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Index, Ints, ints
from onnxprune.to_torch.ops.conv import pad_spatial
from onnxprune.to_torch.registry import converts


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@converts("Gather", since=1)
def gather(data: Tensor, indices: Index, *, axis: int = 0) -> Tensor:
    if isinstance(indices, int):
        return data.select(axis, indices)
    axis = axis % data.dim()
    flat = data.index_select(axis, _wrapped(indices, data.shape[axis]).reshape(-1))
    return flat.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


@converts("GatherElements", since=11)
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


@converts("GatherND", since=11)
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    return data[_nd(indices, data.shape, batch_dims)]


def _nd(indices: Tensor, shape: Sequence[int], batch_dims: int = 0) -> tuple[Tensor, ...]:
    """Index tensors for the leading axes of a tensor of `shape`."""
    length = indices.shape[-1]
    batch = []
    for axis in range(batch_dims):
        view = [1] * (indices.dim() - 1)
        view[axis] = -1
        batch.append(torch.arange(shape[axis], device=indices.device).reshape(view))
    picked = [_wrapped(indices[..., i], shape[batch_dims + i]) for i in range(length)]
    return (*batch, *picked)


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@converts("Scatter", since=9)
@converts("ScatterElements", since=11)
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    places = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, places, updates)
    return data.scatter_reduce(axis, places, updates, _REDUCE[reduction])


@converts("ScatterND", since=11)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    places = _nd(indices, data.shape)
    if reduction in ("none", "add"):
        return data.index_put(places, updates, accumulate=reduction == "add")
    length, shape = indices.shape[-1], list(data.shape)
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, shape[:length], strict=True):
        flat = flat * size + place
    rows = data.reshape(math.prod(shape[:length]), -1)
    new = updates.reshape(flat.numel(), -1)
    return rows.scatter_reduce(0, flat.reshape(-1, 1).expand_as(new), new, _REDUCE[reduction]).reshape(shape)


@converts("Compress", since=9)
def compress(data: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    data = data.reshape(-1) if axis is None else data
    return data.index_select(axis or 0, condition.nonzero().reshape(-1))


@converts("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().t()


@converts("Unique", since=11)
def unique(
    x: Tensor,
    *,
    axis: int | None = None,
    sorted: int = 1,  # noqa: A002
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """The entries, where each first stands, which one each place of `x` holds, and how often."""
    x = x.reshape(-1) if axis is None else x
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis or 0)
    places = torch.arange(len(inverse), device=x.device)
    first = torch.full_like(counts, len(inverse)).scatter_reduce(0, inverse, places, "amin")
    if not sorted:
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    found = x.index_select(axis or 0, first)
    return (found, first, inverse, counts)[:n_outputs] if n_outputs > 1 else found


@converts("ReverseSequence", since=10)
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    time = torch.arange(x.shape[time_axis], device=x.device)
    turned = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)  # [batch, time]
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    rows = torch.arange(moved.shape[0], device=x.device)[:, None]
    return moved[rows, turned].movedim((0, 1), (batch_axis, time_axis))


@converts("TensorScatter", since=24)
def tensor_scatter(
    past: Tensor, update: Tensor, write: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """`update` written into `past` from entry `write` of each batch row on, along `axis`."""
    axis = axis % past.dim()
    start: Any = 0 if write is None else write.reshape(-1, *[1] * (past.dim() - 1))
    view = [1] * past.dim()
    view[axis] = -1
    places = start + torch.arange(update.shape[axis], device=past.device).reshape(view)
    if mode == "circular":
        places = places % past.shape[axis]
    return past.scatter(axis, places.expand(update.shape), update)


@converts("Col2Im", since=18)
def col2im(
    x: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
) -> Tensor:
    """From [batch, channels * block, windows], any number of spatial axes; overlapping blocks add up."""
    image, block = ints(image_shape), ints(block_shape)
    rank = len(image)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    flat = torch.zeros((), dtype=torch.int64, device=x.device)
    padded = [n + b + e for n, b, e in zip(image, pads[:rank], pads[rank:], strict=True)]
    for axis, (n, k, s, d) in enumerate(zip(padded, block, strides, dilations, strict=True)):
        count = (n - (k - 1) * d - 1) // s + 1
        place = torch.arange(k, device=x.device)[:, None] * d + torch.arange(count, device=x.device) * s
        view = [1] * 2 * rank
        view[axis], view[rank + axis] = k, count
        flat = flat * n + place.reshape(view)
    entries = flat.reshape(-1)  # [block * windows]: where each goes in the padded image
    channels = x.shape[1] // math.prod(block)
    source = x.reshape(x.shape[0], channels, -1)
    full = source.new_zeros(x.shape[0], channels, math.prod(padded)).index_add(2, entries, source)
    return pad_spatial(full.reshape(x.shape[0], channels, *padded), [-p for p in pads])
