"""What is done to uint8 images before the model sees them: size, layout, mean and deviation; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError

Dims: TypeAlias = Sequence[int | str | None] | None

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # ImageNet's, averaged over the channels
ENLARGED = 256 / 224  # images of another size are scaled to this multiple of the crop, as for ImageNet models
LAYOUTS = ("auto", "nchw", "nhwc")

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs, as asked; whatever is left out is read off the model, or ImageNet's.

    `mean` and `std` are per channel, on the 0..1 scale. Encoded images (files, shards, tables) of another size are
    resized so that their shorter side is `size` * 256 / 224, and cropped at the centre; `size` is the model's unless
    its input is open. `layout` is "auto", "nchw" or "nhwc". Raises DataError for a size or layout that makes no sense.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    layout: str = "auto"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise DataError(f"layout {self.layout!r} is unknown: give one of {', '.join(LAYOUTS)}")
        if self.size is not None and self.size < 1:
            raise DataError(f"size is {self.size}: give the width of the model's images in pixels")

    def statistics(self, channels: int, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation as [channels]; one number serves all channels. DataError where they do not fit."""
        means, stds = {1: (GREY_MEAN, GREY_STD), 3: (IMAGENET_MEAN, IMAGENET_STD)}.get(channels, (None, None))
        mean = _per_channel(means if self.mean is None else self.mean, channels, f"{where}: mean")
        std = _per_channel(stds if self.std is None else self.std, channels, f"{where}: std")
        if (std <= 0).any():
            raise DataError(f"{where}: std is {self.std}: give positive numbers")
        return mean, std

    def frame(self, dims: Sequence[int | str | None], where: str) -> tuple[int | None, int | None, int]:
        """Height and width of the images that an input of 4-D `dims` takes (None: of any), and their channels."""
        first, second, third = (d if isinstance(d, int) else None for d in dims[1:])
        last = _channels_last(dims) if self.layout == "auto" else self.layout == "nhwc"
        channels, height, width = (third, first, second) if last else (first, second, third)
        if channels not in (None, *_CHANNELS):
            raise DataError(
                f"{where}: images have 1 or 3 channels, but the input {shown(dims)}, read as "
                f"{'nhwc' if last else 'nchw'}, has {channels}: give arrays, or another layout"
            )
        if self.size is not None and any(edge not in (None, self.size) for edge in (height, width)):
            raise DataError(
                f"{where}: size {self.size} is asked for, but the model takes {height or '?'}x{width or '?'} "
                "pixels: leave the size out"
            )
        return height or self.size, width or self.size, channels or 3


@dataclass(frozen=True)
class Pixels:
    """How uint8 images (n, h, w, c) become a model input: `pixel * scale + shift`, in its layout.

    `scale` and `shift` are float32 of shape [c]; `channels_first` tells (n, c, h, w) from (n, h, w, c).
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    channels_first: bool
    dtype: np.dtype[Any]

    def to_input(self, images: NDArray[np.generic]) -> NDArray[np.generic]:
        """Images (n, h, w, c) uint8 as the model's input."""
        values = (images.astype(np.float32) * self.scale + self.shift).astype(self.dtype)
        return np.ascontiguousarray(np.moveaxis(values, -1, 1)) if self.channels_first else values

    def describe(self) -> str:
        """Layout and normalisation in words."""
        layout = "nchw" if self.channels_first else "nhwc"
        if self.dtype.kind != "f":
            return f"{layout}, pixels as they are"
        std = 1 / (255 * self.scale.astype(np.float64))
        mean = -self.shift * std
        mean_shown, std_shown = (" ".join(f"{v + 0.0:.4g}" for v in values) for values in (mean, std))
        return f"{layout}, scaled to 0..1, mean {mean_shown}, std {std_shown}"

    @staticmethod
    def reading(
        shape: Sequence[int], dims: Dims, dtype: np.dtype[Any], asked: Preprocessing, where: str
    ) -> "Pixels":
        """The conversion of images of `shape` (n, h, w, c) for an input of `dims`; else DataError."""
        fits = {
            "nchw": len(shape) == 4 and matches(dims, _first(shape)),
            "nhwc": len(shape) == 4 and matches(dims, shape[1:]),
        }
        layout = asked.layout if asked.layout != "auto" else "nchw" if fits["nchw"] else "nhwc"
        if not fits[layout]:
            as_asked = "" if asked.layout == "auto" else f" laid out {layout}"
            raise DataError(
                f"{where}: uint8 {tuple(shape)} does not fit an input of shape {shown(dims)}{as_asked}: store images "
                "as (n, h, w, c) of the model's size, and anything else in the input's own type"
            )
        if asked.size is not None and set(shape[1:3]) != {asked.size}:
            raise DataError(
                f"{where}: images of {shape[1]}x{shape[2]} pixels where size {asked.size} is asked for: arrays are "
                "not resized, leave the size out or store them so"
            )
        first, channels = layout == "nchw", shape[3]
        if dtype.kind != "f":
            return Pixels(np.ones(channels, np.float32), np.zeros(channels, np.float32), first, dtype)
        mean, std = asked.statistics(channels, where)
        scale, shift = 1 / (255 * std), -mean / std
        return Pixels(scale.astype(np.float32), shift.astype(np.float32), first, dtype)


def as_images(array: NDArray[np.generic], dims: Dims) -> NDArray[np.generic]:
    """uint8 `array` as (n, h, w, c): from (n, h, w) too, and from (n, c, h, w) if only that fits."""
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4 or dims is None or matches(dims, _first(array.shape)) or array.shape[3] in _CHANNELS:
        return array
    return np.moveaxis(array, 1, -1) if matches(dims, array.shape[1:]) else array


def matches(dims: Dims, tail: Sequence[int]) -> bool:
    """Whether an input of `dims` takes samples of shape `tail`."""
    if dims is None:
        return True
    pairs = zip(dims[1:], tail, strict=False)
    return len(dims) == len(tail) + 1 and all(not isinstance(d, int) or d == s for d, s in pairs)


def shown(dims: Dims) -> str:
    """`dims` for a message."""
    sizes = [str(d) if isinstance(d, int) else "?" for d in dims or ()]
    return "unknown" if dims is None else f"({', '.join(sizes)})"


def _per_channel(given: Sequence[float] | None, channels: int, where: str) -> NDArray[np.float32]:
    if given is None:
        raise DataError(f"{where} has no default for {channels} channels: give {channels} numbers")
    value = np.atleast_1d(np.asarray(given, np.float32))
    if value.shape not in ((channels,), (1,)) or not np.isfinite(value).all():
        raise DataError(f"{where} is {given} for {channels} channels: give {channels} numbers")
    return np.broadcast_to(value, (channels,))


def _first(shape: Sequence[int]) -> tuple[int, ...]:
    """The (c, h, w) of images (n, h, w, c)."""
    return (*shape[3:], *shape[1:3])


def _channels_last(dims: Sequence[int | str | None]) -> bool:
    """Whether a 4-D input is laid out (n, h, w, c), told by which axis has the size of a channel axis."""
    return dims[1] not in _CHANNELS and dims[3] in _CHANNELS
