"""Convolution whose samples are moved by learned offsets."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from onnxprune.to_torch.registry import converts


@converts("DeformConv", since=19)
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    group: int = 1,
    offset_group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
) -> Tensor:
    """Linear interpolation between entries, zeros outside; any number of spatial axes (arXiv 1811.11168)."""
    rank = x.dim() - 2
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * rank
    out, kernel = offset.shape[2:], weight.shape[2:]
    taps = kernel.numel()
    moves = offset.reshape(x.shape[0], offset_group, taps, rank, *out)
    places = [
        moves[:, :, :, axis] + _grid(x, axis, kernel, out, strides[axis], dilations[axis]) - pads[axis]
        for axis in range(rank)
    ]
    columns = _interpolated(x, places, offset_group)  # [batch, channels, taps, *out]
    if mask is not None:
        factor = mask.reshape(x.shape[0], offset_group, 1, taps, *out)
        split = columns.reshape(x.shape[0], offset_group, -1, taps, *out)
        columns = (split * factor).flatten(1, 2)
    grouped = columns.reshape(x.shape[0], group, -1, out.numel())  # [batch, group, channels * taps, places]
    y = torch.matmul(weight.reshape(group, weight.shape[0] // group, -1), grouped)
    y = y.reshape(x.shape[0], weight.shape[0], *out)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _grid(
    x: Tensor, axis: int, kernel: Sequence[int], out: Sequence[int], stride: int, dilation: int
) -> Tensor:
    """Where along `axis` each tap of each window lies without offsets: [taps, *out], broadcast."""
    rank = len(out)
    tap = torch.arange(kernel[axis], device=x.device, dtype=x.dtype) * dilation
    window = torch.arange(out[axis], device=x.device, dtype=x.dtype) * stride
    view = [1] * rank
    view[axis] = -1
    taps = tap.reshape(view).expand(*kernel).reshape(-1, *[1] * rank)
    return taps + window.reshape(view)


def _interpolated(x: Tensor, places: Sequence[Tensor], groups: int) -> Tensor:
    """`x` [batch, channels, ...] read at places [batch, groups, taps, *out]: [batch, channels, taps, *out]."""
    shape = places[0].shape
    source = x.reshape(x.shape[0], groups, -1, x.shape[2:].numel())
    lows = [torch.floor(p) for p in places]
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for corner in product((0, 1), repeat=len(places)):
        flat = torch.zeros(shape, dtype=torch.int64, device=x.device)
        share = torch.ones(shape, dtype=x.dtype, device=x.device)
        for place, low, step, size in zip(places, lows, corner, x.shape[2:], strict=True):
            index = low + step
            inside = (index >= 0) & (index < size)
            share = share * torch.where(inside, 1 - (place - index).abs(), 0)
            flat = flat * size + index.clamp(0, size - 1).long()
        entries = flat.reshape(x.shape[0], groups, 1, -1).expand(-1, -1, source.shape[2], -1)
        total = total + source.gather(3, entries) * share.reshape(x.shape[0], groups, 1, -1)
    return total.reshape(x.shape[0], x.shape[1], *shape[2:])
