"""Encoded images, from wherever their bytes come, as pixels of one size; Pillow only where one is decoded."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError
from onnxprune.training.preprocessing import ENLARGED, Pixels, Preprocessing
from onnxprune.training.samples import Column, Input

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"})


class Encoded(Protocol):
    """Encoded images by row number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> bytes: ...

    def where(self, row: int) -> str:
        """What to call an image in a message."""
        ...


@dataclass(frozen=True)
class Files:
    """Images in files of their own."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise _unreadable(str(self.paths[row]), error) from error

    def where(self, row: int) -> str:
        return str(self.paths[row])


@dataclass(frozen=True)
class Images:
    """Encoded images that read like a uint8 array (n, h, w, c): decoded when indexed, cropped to fit."""

    encoded: Encoded
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.encoded), self.height, self.width, self.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def resizing(self) -> str:
        """What happens to images of another size, for Data.describe."""
        shorter = round(ENLARGED * min(self.height, self.width))
        return f" (others resized, shorter side to {shorter}, and cropped at the centre)"

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.stack([self._read(int(row)) for row in rows])

    @staticmethod
    def fitting(encoded: Encoded, dims: Sequence[int | str | None], asked: Preprocessing) -> "Images":
        """For an input of 4-D `dims`; of the first image's size where that and `asked` leave it open."""
        height, width, channels = asked.frame(dims, encoded.where(0))
        if height is None or width is None:
            first = decoded(encoded, 0)
            height, width = height or first.height, width or first.width
        return Images(encoded, height, width, channels)

    def _read(self, row: int) -> NDArray[np.uint8]:
        opened = decoded(self.encoded, row)
        if opened.mode.startswith(("I", "F")):
            raise DataError(
                f"{self.encoded.where(row)}: an image of mode {opened.mode}: store 8 bits per channel, or an array"
            )
        image = _converted(opened, "L" if self.channels == 1 else "RGB", self.encoded, row)
        fitted = fit(image, self.width, self.height)
        return np.asarray(fitted, np.uint8).reshape(self.height, self.width, self.channels)


@dataclass(frozen=True)
class Masks:
    """Class numbers per pixel, int64 (n, h, w), each resized and cropped as the image of its row, by nearest pixel."""

    encoded: Encoded
    images: Images

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.encoded), self.images.height, self.images.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.stack([self._read(int(row)) for row in rows])

    def _read(self, row: int) -> NDArray[np.int64]:
        mask = decoded(self.encoded, row)
        if len(mask.getbands()) != 1 or mask.mode == "F":
            raise DataError(
                f"{self.encoded.where(row)}: a mask of mode {mask.mode}: store class numbers as a PNG of one channel"
            )
        image = decoded(self.images.encoded, row)
        if mask.size != image.size:
            raise DataError(
                f"{self.encoded.where(row)}: a mask of {mask.width}x{mask.height} pixels for an image of "
                f"{image.width}x{image.height}: give both one size"
            )
        whole = _converted(mask, mask.mode, self.encoded, row)
        return np.asarray(fit(whole, self.images.width, self.images.height, nearest=True)).astype(np.int64)


def image_column(encoded: Encoded, wanted: Input, asked: Preprocessing, where: str) -> Column:
    """`encoded` images for the input `wanted`, the first of them decoded now."""
    name, dtype, dims = wanted
    if dims is None or len(dims) != 4:
        raise DataError(
            f"{where}: images need a model with a 4-D image input, '{name}' is none: give arrays instead"
        )
    images = Images.fitting(encoded, dims, asked)
    _ = images[np.arange(1)]
    pixels = Pixels.reading(images.shape, dims, np.dtype(dtype), asked, where)
    return Column(name, images, pixels)


def mask_labels(encoded: Encoded, images: Column, where: str) -> Masks:
    """`encoded` masks of the column `images`, the first of them decoded now."""
    if not isinstance(images.values, Images):
        raise DataError(
            f"{where}: masks need images of the same rows, '{images.name}' is an array: give 'y' as one"
        )
    masks = Masks(encoded, images.values)
    _ = masks[np.arange(1)]
    return masks


def decoded(encoded: Encoded, row: int) -> "Image.Image":
    """An image whose header is read; the pixels follow when they are asked for."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"{encoded.where(row)}: images need Pillow: pip install 'onnxprune[images]'"
        ) from error
    content = encoded[row]
    try:
        return Image.open(io.BytesIO(content))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(encoded.where(row), error) from error


def fit(image: "Image.Image", width: int, height: int, *, nearest: bool = False) -> "Image.Image":
    """`image` itself where it has the size, else resized (bicubic, or by nearest pixel) and cropped at the centre."""
    from PIL import Image

    if image.size == (width, height):
        return image
    ratio = ENLARGED * max(width / image.width, height / image.height)
    size = (max(width, round(image.width * ratio)), max(height, round(image.height * ratio)))
    resized = image.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def is_image(path: Path) -> bool:
    """Whether `path` is a file with an image's suffix."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _converted(image: "Image.Image", mode: str, encoded: Encoded, row: int) -> "Image.Image":
    """With its pixels decoded; DataError where they are cut off or corrupt."""
    try:
        image.load()
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(encoded.where(row), error) from error


def _unreadable(where: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    if "BytesIO" in reason:
        reason = "it is of no known image format"
    return DataError(f"{where}: cannot be read as an image: {reason}: remove or replace it")
