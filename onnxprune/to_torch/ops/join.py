"""Tensors put together, cut apart, padded."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Ints, Scalar, ints, number
from onnxprune.to_torch.registry import converts


@converts("Concat", since=4)
def concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)


@converts("Split", since=2)
def split_2(
    x: Tensor, *, axis: int = 0, split: Sequence[int] | None = None, n_outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    return split_18(x, split, axis=axis, n_outputs=n_outputs)


@converts("Split", since=13)
def split_13(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, n_outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    return split_18(x, split, axis=axis, n_outputs=n_outputs)


@converts("Split", since=18)
def split_18(
    x: Tensor,
    split: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Without `split`, equal parts of which the last may be smaller, or empty."""
    if split is not None:
        parts = torch.split(x, ints(split), axis)
    else:
        count, size = num_outputs or n_outputs, x.shape[axis]
        part = -(-size // count)
        parts = torch.split(x, [max(min(part, size - i * part), 0) for i in range(count)], axis)
    return parts[:n_outputs] if n_outputs > 1 else parts[0]


@converts("Slice", since=1)
def slice_1(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    return slice_(x, starts, ends, axes)


@converts("Slice", since=10)
def slice_(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    begins, stops = ints(starts), ints(ends)
    along = list(range(len(begins))) if axes is None else ints(axes)
    strides = [1] * len(begins) if steps is None else ints(steps)
    for begin, stop, axis, step in zip(begins, stops, along, strides, strict=True):
        x = _slice_axis(x, begin, stop, axis % x.dim(), step)
    return x


def _slice_axis(x: Tensor, begin: int, stop: int, axis: int, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * axis + (slice(begin, stop, step),)]
    # PyTorch has no negative steps: the same entries in ascending order, then turned round.
    size = x.shape[axis]
    begin = min(begin + size if begin < 0 else begin, size - 1)
    stop = max(stop + size if stop < 0 else stop, -1)
    count = max(-(-(begin - stop) // -step), 0)
    first = begin + (count - 1) * step
    return x[(slice(None),) * axis + (slice(first, begin + 1, -step) if count else slice(0, 0),)].flip(axis)


@converts("Pad", since=2)
def pad_2(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    return pad(x, pads, value, mode=mode)


@converts("Pad", since=11)
def pad(
    x: Tensor, pads: Ints, value: Scalar | None = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Tensor:
    """`pads` are all begins, then all ends; negative ones crop, in every mode."""
    sizes = ints(pads)
    along = list(range(x.dim())) if axes is None else [a % x.dim() for a in ints(axes)]
    begins, ends = [0] * x.dim(), [0] * x.dim()
    for axis, begin, end in zip(along, sizes[: len(along)], sizes[len(along) :], strict=True):
        begins[axis], ends[axis] = begin, end
    if mode == "constant":
        both = [p for begin, end in zip(reversed(begins), reversed(ends), strict=True) for p in (begin, end)]
        fill = 0 if value is None else number(value)
        return F.pad(x, both, value=fill)
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            x = _pad_axis(x, axis, begin, end, mode)
    return x


def _pad_axis(x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    """One axis by index: PyTorch's own modes pad neither every axis nor further than the axis is long."""
    size = x.shape[axis]
    place = torch.arange(-begin, size + end, device=x.device)
    if mode == "edge":
        place = place.clamp(0, size - 1)
    elif mode == "wrap":
        place = place % size
    else:
        period = max(2 * (size - 1), 1)
        place = place % period
        place = torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)
    return x.index_select(axis, place)


@converts("CenterCropPad", since=18)
def center_crop_pad(x: Tensor, shape: Ints, *, axes: Sequence[int] | None = None) -> Tensor:
    sizes = ints(shape)
    for axis, wanted in zip(range(x.dim()) if axes is None else axes, sizes, strict=True):
        more = wanted - x.shape[axis]
        if more < 0:
            x = x.narrow(axis, -more // 2, wanted)
        elif more > 0:
            x = pad(x, [more // 2, more - more // 2], axes=[axis])
    return x
