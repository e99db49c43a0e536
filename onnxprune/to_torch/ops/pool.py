"""Pooling."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.ops.conv import pad_spatial, symmetric, window_pads
from onnxprune.to_torch.registry import converts

_MAX: dict[int, Callable[..., Tensor]] = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}


@converts("MaxPool", since=1)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    storage_order: int = 0,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    if not x.is_floating_point():  # PyTorch pools floats; they hold every int8 and uint8 exactly
        y = max_pool(
            x.double(), kernel_shape=kernel_shape, pads=pads, strides=strides, dilations=dilations,
            ceil_mode=ceil_mode, auto_pad=auto_pad, storage_order=storage_order, n_outputs=n_outputs,
        )  # fmt: skip
        return (y[0].to(x.dtype), y[1]) if isinstance(y, tuple) else y.to(x.dtype)
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides=strides, dilations=dilations)
    native = symmetric(pads) and all(p <= k // 2 for p, k in zip(pads[:rank], kernel_shape, strict=True))
    if native and n_outputs == 1:
        return _MAX[x.dim()](x, kernel_shape, strides, pads[:rank], dilations, bool(ceil_mode))
    pads = _covering(
        x.shape[2:], kernel_shape, pads, strides=strides, dilations=dilations, ceil_mode=ceil_mode
    )
    padded = pad_spatial(x, pads, -math.inf) if any(pads) else x
    if n_outputs == 1:
        return _MAX[x.dim()](padded, kernel_shape, strides, 0, dilations)
    y, places = _MAX[x.dim()](padded, kernel_shape, strides, 0, dilations, return_indices=True)
    return y, _flat_places(places, padded.shape, x.shape, pads, storage_order)


def _flat_places(
    places: Tensor, padded: Sequence[int], shape: Sequence[int], pads: Sequence[int], storage_order: int
) -> Tensor:
    """Indices into a padded plane as indices into the whole tensor; `storage_order` 1: column by column."""
    coordinates = torch.unravel_index(places, tuple(padded[2:]))
    axes = list(zip(coordinates, pads, shape[2:], strict=False))
    flat = torch.zeros_like(places)
    for coordinate, begin, size in reversed(axes) if storage_order else axes:
        flat = flat * size + coordinate - begin
    planes = torch.arange(shape[0] * shape[1], device=places.device).reshape(*shape[:2], *[1] * len(axes))
    return flat + planes * math.prod(shape[2:])


def _covering(
    size: Sequence[int],
    kernel: Sequence[int],
    pads: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: int,
) -> list[int]:
    """`pads` with as much more at the ends as the last window of ceil mode reaches over."""
    rank = len(size)
    if not ceil_mode:
        return list(pads)
    ends = []
    for n, k, begin, end, s, d in zip(
        size, kernel, pads[:rank], pads[rank:], strides, dilations, strict=True
    ):
        span = (k - 1) * d + 1
        windows = -(-(n + begin + end - span) // s) + 1
        if (windows - 1) * s >= n + begin:  # a window wholly in the end's padding is left out
            windows -= 1
        ends.append(max(end, (windows - 1) * s + span - n - begin))
    return [*pads[:rank], *ends]


@converts("AveragePool", since=1)
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    count_include_pad: int = 0,
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides=strides, dilations=dilations)
    fits = symmetric(pads) and all(p <= k // 2 for p, k in zip(pads[:rank], kernel_shape, strict=True))
    if fits and max(dilations) == 1:
        return _MEAN[x.dim()](x, kernel_shape, strides, pads[:rank], bool(ceil_mode), bool(count_include_pad))
    wide = _covering(
        x.shape[2:], kernel_shape, pads, strides=strides, dilations=dilations, ceil_mode=ceil_mode
    )
    counted = pad_spatial(torch.ones_like(x[:1, :1]), pads, float(count_include_pad))
    counted = pad_spatial(counted, [w - p for w, p in zip(wide, pads, strict=True)])
    total = _window_sum(pad_spatial(x, wide), kernel_shape, strides, dilations)
    return total / _window_sum(counted, kernel_shape, strides, dilations)


def _window_sum(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The sum of every window, one axis after the other."""
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        reach = x.shape[axis] - (k - 1) * d
        steps = [x.narrow(axis, i * d, reach) for i in range(k)]
        x = torch.stack(steps).sum(0)[(slice(None),) * axis + (slice(None, None, s),)]
    return x


@converts("LpPool", since=2)
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    p: float = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = window_pads(auto_pad, pads, x.shape[2:], kernel_shape, strides=strides, dilations=dilations)
    pads = _covering(
        x.shape[2:], kernel_shape, pads, strides=strides, dilations=dilations, ceil_mode=ceil_mode
    )
    return _window_sum(pad_spatial(x.abs() ** p, pads), kernel_shape, strides, dilations) ** (1 / p)


@converts("GlobalAveragePool", since=1)
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@converts("GlobalMaxPool", since=1)
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@converts("GlobalLpPool", since=1)
def global_lp_pool(x: Tensor, *, p: float = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)
    return norm


@converts("MaxUnpool", since=9)
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """`indices` count through the tensor that was pooled; a larger `output_shape` gets zeros at the ends."""
    rank = x.dim() - 2
    strides, pads = strides or [1] * rank, pads or [0] * 2 * rank
    pooled = [
        (n - 1) * s + k - pads[i] - pads[i + rank]
        for i, (n, k, s) in enumerate(zip(x.shape[2:], kernel_shape, strides, strict=True))
    ]
    shape = [*x.shape[:2], *pooled]
    y = x.new_zeros(math.prod(shape)).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return y
    wanted = output_shape.tolist()
    return pad_spatial(y, [0] * rank + [w - n for w, n in zip(wanted[2:], pooled, strict=True)])
