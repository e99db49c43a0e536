"""uint8 images as model inputs, from arrays and from files; numpy, and Pillow only where files are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Dims: TypeAlias = Sequence[int | str | None] | None

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # ImageNet's, averaged over the channels
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"})
ENLARGED = 256 / 224  # images of another size are scaled to this multiple of the crop, as for ImageNet models

_CHANNELS = (1, 3)


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

    @staticmethod
    def reading(
        shape: Sequence[int], dims: Dims, dtype: np.dtype[Any], statistics: "Statistics", where: str
    ) -> "Pixels":
        """The conversion of images of `shape` (n, h, w, c) for an input of `dims`; else DataError."""
        if len(shape) != 4 or not (_matches(dims, _first(shape)) or _matches(dims, shape[1:])):
            raise DataError(
                f"{where}: uint8 {tuple(shape)} does not fit an input of shape {_shown(dims)}: store images "
                "as (n, h, w, c) of the model's size, and anything else in the input's own type"
            )
        first, channels = _matches(dims, _first(shape)), shape[3]
        if dtype.kind != "f":
            return Pixels(np.ones(channels, np.float32), np.zeros(channels, np.float32), first, dtype)
        mean, std = statistics.of(channels, where)
        scale, shift = 1 / (255 * std), -mean / std
        return Pixels(scale.astype(np.float32), shift.astype(np.float32), first, dtype)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per channel on the 0..1 scale, as given; None for ImageNet's."""

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def of(self, channels: int, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both as [channels]; one number serves all channels. DataError where they do not fit."""
        means, stds = {1: (GREY_MEAN, GREY_STD), 3: (IMAGENET_MEAN, IMAGENET_STD)}.get(channels, (None, None))
        mean = self._per_channel(means if self.mean is None else self.mean, channels, f"{where}: mean")
        std = self._per_channel(stds if self.std is None else self.std, channels, f"{where}: std")
        if (std <= 0).any():
            raise DataError(f"{where}: std is {self.std}: give positive numbers")
        return mean, std

    @staticmethod
    def _per_channel(given: Sequence[float] | None, channels: int, where: str) -> NDArray[np.float32]:
        if given is None:
            raise DataError(f"{where} has no default for {channels} channels: give {channels} numbers")
        value = np.atleast_1d(np.asarray(given, np.float32))
        if value.shape not in ((channels,), (1,)) or not np.isfinite(value).all():
            raise DataError(f"{where} is {given} for {channels} channels: give {channels} numbers")
        return np.broadcast_to(value, (channels,))


@dataclass(frozen=True)
class ImageFiles:
    """Image files that read like a uint8 array (n, h, w, c): decoded when indexed, cropped to fit."""

    files: tuple[Path, ...]
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.files), self.height, self.width, self.channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.stack([self._read(self.files[row]) for row in rows])

    @staticmethod
    def at(files: Sequence[Path], dims: Sequence[int | str | None]) -> "ImageFiles":
        """Images of the size that `dims` ask for; where they leave it open, of the first file's."""
        first, second, third = (d if isinstance(d, int) else None for d in dims[1:])
        channels, height, width = (third, first, second) if _channels_last(dims) else (first, second, third)
        if height is None or width is None:
            with _open(files[0]) as opened:
                height, width = height or opened.height, width or opened.width
        if channels not in (None, 1, 3):
            raise DataError(
                f"{files[0].parent}: images have 1 or 3 channels, the input {channels}: give an .npz"
            )
        return ImageFiles(tuple(files), height, width, channels or 3)

    def _read(self, file: Path) -> NDArray[np.uint8]:
        try:
            with _open(file) as opened:
                image: Image.Image = opened.convert("L" if self.channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(file, error) from error
        if image.size != (self.width, self.height):
            image = self._crop(image)
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels)

    def _crop(self, image: "Image.Image") -> "Image.Image":
        ratio = ENLARGED * max(self.width / image.width, self.height / image.height)
        width, height = round(image.width * ratio), round(image.height * ratio)
        image = image.resize((max(self.width, width), max(self.height, height)))
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


def as_images(array: NDArray[np.generic], dims: Dims) -> NDArray[np.generic]:
    """uint8 `array` as (n, h, w, c): from (n, h, w) too, and from (n, c, h, w) if only that fits."""
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4 or dims is None or _matches(dims, _first(array.shape)) or array.shape[3] in _CHANNELS:
        return array
    return np.moveaxis(array, 1, -1) if _matches(dims, array.shape[1:]) else array


def find_images(folder: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """The image files of `folder`, their class numbers and the classes' names (sorted folder names).

    Flat images have no class numbers. Raises DataError when there are none, or both kinds.
    """
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    flat = [entry for entry in visible if _is_image(entry)]
    inside = {entry.name: sorted(filter(_is_image, entry.rglob("*"))) for entry in visible if entry.is_dir()}
    by_class = {name: files for name, files in inside.items() if files}
    if flat and by_class:
        raise DataError(f"{folder}: image {flat[0].name} lies beside class folders: move it into one of them")
    if not flat and not by_class:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(f"{folder}: no images found: give images ({kinds}) or one folder of them per class")
    if flat:
        return flat, None, ()
    labels = [number for number, files in enumerate(by_class.values()) for _ in files]
    return [file for files in by_class.values() for file in files], labels, tuple(by_class)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _open(file: Path) -> "Image.Image":
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{file}: image files need Pillow: pip install 'onnxprune[images]'") from error
    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{file}: cannot be read as an image: {reason}: remove or replace it")


def _first(shape: Sequence[int]) -> tuple[int, ...]:
    """The (c, h, w) of images (n, h, w, c)."""
    return (*shape[3:], *shape[1:3])


def _matches(dims: Dims, tail: Sequence[int]) -> bool:
    """Whether an input of `dims` takes samples of shape `tail`."""
    if dims is None:
        return True
    pairs = zip(dims[1:], tail, strict=False)
    return len(dims) == len(tail) + 1 and all(not isinstance(d, int) or d == s for d, s in pairs)


def _channels_last(dims: Sequence[int | str | None]) -> bool:
    """Whether a 4-D input is laid out (n, h, w, c), told by which axis has the size of a channel axis."""
    return dims[1] not in _CHANNELS and dims[3] in _CHANNELS


def _shown(dims: Dims) -> str:
    shown = [str(d) if isinstance(d, int) else "?" for d in dims or ()]
    return "unknown" if dims is None else f"({', '.join(shown)})"
