"""Resize, by linear maps of one axis after the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Floats, Ints, floats, ints
from onnxprune.to_torch.registry import converts


@dataclass(frozen=True)
class Sampling:
    """How Resize finds and weighs its sources: the op's attributes."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0
    antialias: bool = False


@dataclass(frozen=True)
class Change:
    """One axis from `size` to `wanted` entries; `region` is the part to crop, in fractions of the axis."""

    axis: int
    size: int
    wanted: int
    factor: float
    region: tuple[float, float] | None = None


@converts("Upsample", since=7)
def upsample_7(x: Tensor, *, scales: Sequence[float], mode: str = "nearest") -> Tensor:
    return resize_10(x, scales, mode=mode)


@converts("Upsample", since=9)
@converts("Resize", since=10)
def resize_10(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """Before opset 11: asymmetric; nearest takes the pixel before when enlarging, the one after otherwise."""
    factors = floats(scales)
    for axis, factor in enumerate(factors):
        sampling = Sampling(mode, "asymmetric", "floor" if factor >= 1 else "ceil")
        x = _resize(x, [Change(axis, x.shape[axis], _scaled(x.shape[axis], factor), factor)], sampling)
    return x


@converts("Resize", since=11)
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:
    sampling = Sampling(
        mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a,
        bool(exclude_outside), extrapolation_value, bool(antialias),
    )  # fmt: skip
    along = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    factors = [] if scales is None else floats(scales)
    if factors:
        wanted = [_scaled(x.shape[a], f) for a, f in zip(along, factors, strict=True)]
    else:
        assert sizes is not None
        wanted = ints(sizes)
        factors = [n / x.shape[a] for a, n in zip(along, wanted, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            factor = (min if keep_aspect_ratio_policy == "not_larger" else max)(factors)
            factors = [factor] * len(along)
            wanted = [math.floor(factor * x.shape[a] + 0.5) for a in along]
    changes = [Change(a, x.shape[a], n, f) for a, n, f in zip(along, wanted, factors, strict=True)]
    if roi is not None and coordinate_transformation_mode == "tf_crop_and_resize":
        region = floats(roi)
        ends = zip(region[: len(along)], region[len(along) :], strict=True)
        changes = [replace(change, region=end) for change, end in zip(changes, ends, strict=True)]
    return _resize(x, changes, sampling)


def _scaled(size: int, factor: float) -> int:
    """floor(size * factor) with the product in float32, as the specification's shape inference has it."""
    product = size * factor
    split = product * 536870913.0  # 2**29 + 1: Veltkamp's rounding of a double to 24 bits
    return math.floor(split - (split - product))


def _resize(x: Tensor, changes: Sequence[Change], sampling: Sampling) -> Tensor:
    changes = [
        c for c in changes if c.factor != 1 or c.wanted != c.size or c.region not in (None, (0.0, 1.0))
    ]
    if native := _interpolation(x, changes, sampling):
        shape = list(x.shape)
        for change in changes:
            shape[change.axis] = change.wanted
        return F.interpolate(x, shape[2:], mode=native, align_corners=_aligned(native, sampling))
    for change in changes:
        x = _resize_axis(x, change, sampling)
    return x


def _interpolation(x: Tensor, changes: Sequence[Change], sampling: Sampling) -> str | None:
    """The mode of F.interpolate that is exactly this Resize, if there is one."""
    if not x.is_floating_point() or not 3 <= x.dim() <= 5 or sampling.antialias or sampling.exclude_outside:
        return None
    if not changes or any(c.axis < 2 or c.wanted != c.size * c.factor for c in changes):
        return None
    if sampling.mode == "nearest":
        whole = all(c.factor == int(c.factor) for c in changes)
        floor = sampling.coordinates == "asymmetric" and sampling.nearest == "floor"
        rounded = sampling.coordinates == "half_pixel" and sampling.nearest.startswith("round")
        return "nearest" if whole and (floor or rounded) else None
    if sampling.coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    if sampling.coordinates == "pytorch_half_pixel" and any(c.wanted == 1 for c in changes):
        return None
    if sampling.mode == "linear":
        return ("linear", "bilinear", "trilinear")[x.dim() - 3]
    return "bicubic" if x.dim() == 4 and sampling.cubic_a == -0.75 else None


def _aligned(mode: str, sampling: Sampling) -> bool | None:
    return None if mode == "nearest" else sampling.coordinates == "align_corners"


def _resize_axis(x: Tensor, change: Change, sampling: Sampling) -> Tensor:
    axis, n = change.axis, change.size
    column = [-1 if a == axis else 1 for a in range(x.dim())]
    # In float32, as in onnxruntime: in float64 other places would be halves, and round the other way.
    place = _source(torch.arange(change.wanted, dtype=torch.float32, device=x.device), change, sampling)
    if sampling.mode == "nearest":
        y = x.index_select(axis, _NEAREST[sampling.nearest](place).clamp(0, n - 1).long())
    else:
        y = torch.zeros_like(x.narrow(axis, 0, 1))
        for index, weight in _taps(place, n, change.factor, sampling):
            y = y + x.index_select(axis, index) * weight.to(x.dtype).reshape(column)
        y = y.to(x.dtype)
    if change.region is None:
        return y
    return torch.where(((place < 0) | (place > n - 1)).reshape(column), sampling.extrapolation, y)


_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _source(i: Tensor, change: Change, sampling: Sampling) -> Tensor:
    """Where output `i` lies among the inputs; lengths are whole numbers, as in onnxruntime."""
    kind, n, size, factor = sampling.coordinates, change.size, change.wanted, change.factor
    if kind == "half_pixel" or (kind == "pytorch_half_pixel" and size > 1):
        return (i + 0.5) / factor - 0.5
    if kind == "pytorch_half_pixel":
        return i * 0
    if kind == "half_pixel_symmetric":
        return n / 2 * (1 - size / (n * factor)) + (i + 0.5) / factor - 0.5
    if kind == "align_corners":
        return i * (n - 1) / (size - 1) if size > 1 else i * 0
    if kind == "tf_half_pixel_for_nn":
        return (i + 0.5) / factor
    if kind == "tf_crop_and_resize" and change.region is not None:
        start, end = change.region
        if size == 1:
            return i * 0 + 0.5 * (start + end) * (n - 1)
        return start * (n - 1) + i * (end - start) * (n - 1) / (size - 1)
    return i / factor


def _taps(place: Tensor, n: int, factor: float, sampling: Sampling) -> list[tuple[Tensor, Tensor]]:
    """The inputs that each output mixes and their weights, one pair of [size] tensors per tap."""
    shrink = min(factor, 1.0) if sampling.antialias else 1.0
    reach = math.ceil((1 if sampling.mode == "linear" else 2) / shrink)
    base = torch.floor(place)
    taps = []
    for offset in range(1 - reach, reach + 1):
        distance = ((base + offset - place) * shrink).abs()
        weight = (
            (1 - distance).clamp(min=0) if sampling.mode == "linear" else _cubic(distance, sampling.cubic_a)
        )
        if sampling.exclude_outside:
            weight = torch.where((base + offset < 0) | (base + offset > n - 1), 0, weight)
        taps.append(((base + offset).clamp(0, n - 1).long(), weight))
    if not (sampling.antialias or sampling.exclude_outside):
        return taps
    total = torch.stack([weight for _, weight in taps]).sum(0)
    return [(index, weight / total) for index, weight in taps]


def _cubic(t: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel at distance `t`."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0))
