"""Folders of image files: one folder per class, flat, or images with masks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from onnxprune.errors import DataError
from onnxprune.training.arrays import assembled
from onnxprune.training.images import SUFFIXES, Files, image_column, is_image, mask_labels
from onnxprune.training.preprocessing import Preprocessing
from onnxprune.training.samples import Data, Input

MASKED = ("images", "masks")


def read_folder(path: Path, inputs: Sequence[Input], asked: Preprocessing) -> Data:
    """The images in `path` for the only input, labelled by class folder or by mask where there are any."""
    if len(inputs) != 1:
        raise DataError(f"{path}: images need a model with one 4-D image input: give an .npz file instead")
    if {entry.name for entry in _visible(path)} == set(MASKED):
        files, masks = _masked(path)
        images = image_column(Files(files), inputs[0], asked, f"{path}: images")
        return assembled([images], mask_labels(Files(masks), images, f"{path}: masks"), str(path))
    files, labels, classes = _classified(path)
    images = image_column(Files(files), inputs[0], asked, f"{path}: images")
    return assembled([images], None if labels is None else np.asarray(labels, np.int64), str(path), classes)


def _masked(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Images and masks that share a stem."""
    images = _by_stem(filter(is_image, _visible(folder / MASKED[0])))
    masks = _by_stem(mask for mask in _visible(folder / MASKED[1]) if mask.suffix.lower() == ".png")
    if not images:
        raise DataError(f"{folder / MASKED[0]}: no images found: give images ({', '.join(sorted(SUFFIXES))})")
    alone = sorted(images.keys() ^ masks.keys())
    if alone:
        missing = "image" if alone[0] in masks else "mask"
        raise DataError(
            f"{folder}: {len(alone)} of the images and masks are alone, {alone[0]!r} has no {missing}: give "
            f"{MASKED[0]}/NAME and {MASKED[1]}/NAME.png"
        )
    return tuple(images.values()), tuple(masks[stem] for stem in images)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise DataError(f"{path}: lies beside {found[path.stem].name}: give each sample one file")
        found[path.stem] = path
    return found


def _classified(folder: Path) -> tuple[tuple[Path, ...], list[int] | None, tuple[str, ...]]:
    """The image files of `folder`, their class numbers and the classes' names (sorted folder names).

    Flat images have no class numbers. Raises DataError when there are none, or both kinds.
    """
    visible = _visible(folder)
    flat = [entry for entry in visible if is_image(entry)]
    inside = {entry.name: sorted(filter(is_image, entry.rglob("*"))) for entry in visible if entry.is_dir()}
    by_class = {name: files for name, files in inside.items() if files}
    if flat and by_class:
        raise DataError(f"{folder}: image {flat[0].name} lies beside class folders: move it into one of them")
    if not flat and not by_class:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(
            f"{folder}: no images found: give images ({kinds}), one folder of them per class, .parquet or .tar"
        )
    if flat:
        return tuple(flat), None, ()
    labels = [number for number, files in enumerate(by_class.values()) for _ in files]
    return tuple(file for files in by_class.values() for file in files), labels, tuple(by_class)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
