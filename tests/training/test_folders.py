"""Images and masks that share a stem; the images' own rules are in test_images.py."""

import numpy as np
import pytest
from PIL import Image

from onnxprune.errors import DataError
from onnxprune.training import data

INPUTS = [("image", np.float32, (None, 3, 8, 8))]
RAW = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def pair(folder, stem, size=(8, 8), *, suffix="png", mode="L"):
    """An image whose red channel is its mask."""
    mask = np.random.default_rng(len(stem)).integers(0, 5, size[::-1], np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.stack([mask] * 3, axis=-1))
    picture.save(folder / "images" / f"{stem}.{suffix}")
    made = Image.fromarray(mask).convert(mode) if mode != "P" else Image.fromarray(mask)
    if mode == "P":
        made.putpalette([200, 10, 10] * 256)
    made.save(folder / "masks" / f"{stem}.png")
    return mask


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_are_class_numbers_per_pixel_in_the_order_of_their_stems(tmp_path, mode):
    second, first = pair(tmp_path, "bb", mode=mode), pair(tmp_path, "a", mode=mode)
    loaded = data.load(tmp_path, INPUTS, **RAW)
    labels = loaded.labels_of([1, 0])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [second, first])
    np.testing.assert_allclose(loaded.batch([1, 0])[0][:, 0] * 255, labels, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (5, 3), (61, 47)])
def test_a_mask_is_resized_and_cropped_where_its_image_is(tmp_path, size):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    across = np.tile(np.arange(size[0]) * 255 // size[0], (size[1], 1)).astype(np.uint8)
    Image.fromarray(np.stack([across] * 3, axis=-1)).save(tmp_path / "images" / "a.png")
    Image.fromarray(across).save(tmp_path / "masks" / "a.png")
    loaded = data.load(tmp_path, INPUTS, **RAW)
    mask, image = loaded.labels_of([0])[0], loaded.batch([0])[0][0, 0] * 255
    assert mask.shape == (8, 8)
    assert (
        np.abs(mask - image).max() <= 255 / size[0] + 16
    )  # a pixel of the original, and bicubic's overshoot
    assert set(np.unique(mask)) <= set(np.unique(across))  # no class in between is made up


def test_a_mask_without_its_image_or_of_another_size_is_named(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(DataError, match="'b' has no image"):
        data.load(tmp_path, INPUTS)
    (tmp_path / "masks" / "b.png").unlink()
    Image.new("L", (8, 9)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a mask of 8x9 pixels for an image of 8x8"):
        data.load(tmp_path, INPUTS)


def test_a_mask_of_colours_is_refused_at_load(tmp_path):
    pair(tmp_path, "a")
    Image.new("RGB", (8, 8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match="one channel"):
        data.load(tmp_path, INPUTS)


def test_two_images_of_one_stem_are_refused(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "a", suffix="jpg")
    with pytest.raises(DataError, match=r"lies beside a\.jpg"):
        data.load(tmp_path, INPUTS)


def test_no_images_beside_masks_is_refused(tmp_path):
    pair(tmp_path, "a")
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match="no images found"):
        data.load(tmp_path, INPUTS)


def test_folders_of_those_names_beside_others_are_classes(tmp_path):
    pair(tmp_path, "a")
    (tmp_path / "others").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "others" / "a.png")
    assert data.load(tmp_path, INPUTS).classes == ("images", "masks", "others")
