"""What lies in regions of an image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.registry import converts


@converts("RoiAlign", since=10)
def roi_align_10(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Before opset 16: no shift by half a pixel, and no region narrower than one."""
    return roi_align(
        x, rois, batch, mode=mode, output_height=output_height, output_width=output_width,
        sampling_ratio=sampling_ratio, spatial_scale=spatial_scale,
        coordinate_transformation_mode="output_half_pixel",
    )  # fmt: skip


@converts("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    coordinate_transformation_mode: str = "half_pixel",
) -> Tensor:
    """[regions, channels, height, width]; "max" takes the largest weighted corner, as in onnxruntime."""
    half = coordinate_transformation_mode == "half_pixel"
    bounds = rois * spatial_scale - (0.5 if half else 0.0)
    begins, spans = bounds[:, :2], bounds[:, 2:] - bounds[:, :2]
    spans = spans if half else spans.clamp(min=1)
    rows, by, seen = _samples(begins[:, 1], spans[:, 1], output_height, sampling_ratio, x.shape[2])
    columns, along, seen_too = _samples(begins[:, 0], spans[:, 0], output_width, sampling_ratio, x.shape[3])
    image = batch.long().reshape(-1, 1, 1, 1, 1) * x.shape[2]
    places = (image + rows[:, :, None, :, None]) * x.shape[3] + columns[:, None, :, None]
    weights = (
        by[:, :, None, :, None] * along[:, None, :, None]
    )  # [regions, height, width, row taps, column taps]
    source = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    if mode == "max":
        read = source[places.flatten(3)] * weights.flatten(3).unsqueeze(-1)
        real = (seen[:, :, None] & seen_too[:, None]).reshape(len(rois), 1, 1, -1, 1)
        peaks = torch.where(real, read, -torch.inf).amax(3)
        return torch.where(peaks == -torch.inf, 0, peaks).movedim(-1, 1)
    counts = seen.sum(1).clamp(min=2) * seen_too.sum(1).clamp(min=2) / 4  # two taps a sample
    shares = weights / counts.to(x.dtype).reshape(-1, 1, 1, 1, 1)
    flat = F.embedding_bag(
        places.flatten(3).flatten(0, 2),
        source,
        mode="sum",
        per_sample_weights=shares.flatten(3).flatten(0, 2),
    )
    return flat.reshape(len(rois), output_height, output_width, x.shape[1]).movedim(-1, 1)


def _samples(begin: Tensor, span: Tensor, bins: int, ratio: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices along one axis and weights, both [regions, bins, taps], and which taps count [regions, taps].

    Each bin is sampled as often as `ratio` says, or as it is long, each sample between two entries; outside
    the image it gives 0.
    """
    count = torch.full_like(span, ratio) if ratio else torch.ceil(span / bins)
    most = ratio or max(int(count.max().item()) if len(count) else 0, 1)
    step = torch.arange(most, device=span.device, dtype=span.dtype)
    within = (step + 0.5) / count.clamp(min=1)[:, None]  # [regions, most], in bins
    offset = torch.arange(bins, device=span.device, dtype=span.dtype)[:, None] + within[:, None]
    place = begin[:, None, None] + offset * (span / bins)[:, None, None]
    counted = step < count[:, None]
    inside = (place >= -1) & (place <= size) & counted[:, None]
    clamped = place.clamp(0, size - 1)
    low = clamped.floor()
    share = clamped - low
    index = torch.stack([low.long(), (low.long() + 1).clamp(max=size - 1)], -1)
    weight = torch.stack([torch.where(inside, 1 - share, 0), torch.where(inside, share, 0)], -1)
    return index.flatten(2), weight.flatten(2), counted.repeat_interleave(2, 1)


@converts("MaxRoiPool", since=1)
def max_roi_pool(
    x: Tensor, rois: Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """[regions, channels, *pooled_shape]; `rois` are (image, x1, y1, x2, y2), whose ends belong to them."""
    bounds = torch.floor(rois[:, 1:] * spatial_scale + 0.5)
    y = x[rois[:, 0].long()]
    for axis, bins in ((3, pooled_shape[1]), (2, pooled_shape[0])):
        begin, end = bounds[:, 3 - axis], bounds[:, 5 - axis]
        part = (end - begin + 1).clamp(min=1)[:, None] / bins
        steps = torch.arange(bins, device=x.device, dtype=x.dtype)
        first, last = (
            torch.floor(steps * part) + begin[:, None],
            torch.ceil((steps + 1) * part) + begin[:, None],
        )
        place = torch.arange(x.shape[axis], device=x.device)
        view = (-1, 1, 1, x.shape[axis]) if axis == 3 else (-1, 1, x.shape[axis], 1)
        y = torch.stack([
            torch.where(((place >= f) & (place < s)).reshape(view), y, -torch.inf).amax(axis)
            for f, s in zip(first.unsqueeze(-1).unbind(1), last.unsqueeze(-1).unbind(1), strict=True)
        ], axis)  # fmt: skip
    return torch.where(y == -torch.inf, 0, y)
