"""Folders of images: classes by folder, any size, nothing but images."""

import sys

import numpy as np
import pytest
from PIL import Image

from onnxprune.errors import DataError
from onnxprune.training import data

INPUTS = [("image", np.float32, (None, 3, 8, 8))]


def picture(path, colour=(255, 0, 0), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_class_folders_are_the_labels_in_the_order_of_their_names(tmp_path):
    for name in ("dog/1.png", "cat/1.PNG", "cat/2.jpg", "dog/deep/2.bmp"):
        picture(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    loaded = data.load(tmp_path, INPUTS)
    assert loaded.classes == ("cat", "dog")
    assert loaded.labels.tolist() == [0, 0, 1, 1]


def test_flat_images_are_unlabelled(tmp_path):
    picture(tmp_path / "a.png")
    assert data.load(tmp_path, INPUTS).labels is None


def test_an_image_of_the_models_size_is_read_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = data.load(tmp_path, INPUTS, mean=[0, 0, 0], std=[1, 1, 1])
    np.testing.assert_allclose(loaded.batch([0])[0][0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (3, 5), (300, 200)])
def test_an_image_of_another_size_is_scaled_and_cropped(tmp_path, size):
    picture(tmp_path / "a.png", (0, 255, 0), size)
    (batch,) = data.load(tmp_path, INPUTS, mean=[0, 0, 0], std=[1, 1, 1]).batch([0])
    assert batch.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(batch[0, :, 4, 4], [0, 1, 0])


def test_an_open_size_is_that_of_the_first_image(tmp_path):
    picture(tmp_path / "a.png", size=(12, 10))
    loaded = data.load(tmp_path, [("image", np.float32, (None, 3, "h", "w"))])
    assert loaded.batch([0])[0].shape == (1, 3, 10, 12)


def test_a_grey_model_gets_grey_images(tmp_path):
    picture(tmp_path / "a.png")
    assert data.load(tmp_path, [("image", np.float32, (None, 1, 8, 8))]).batch([0])[0].shape == (1, 1, 8, 8)


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        data.load(tmp_path, INPUTS).batch([0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "ppm", "bmp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    noise, name = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), f"b.{suffix}"
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    loaded = data.load(tmp_path, INPUTS)
    with pytest.raises(DataError, match=rf"b\.{suffix}: cannot be read") as caught:
        loaded.batch([1])
    assert "\n" not in str(caught.value)


def test_the_first_image_is_decoded_at_load(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(
        DataError, match=r"a\.png: cannot be read as an image: it is of no known image format"
    ):
        data.load(tmp_path, INPUTS)


def test_an_image_of_16_bits_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="8 bits per channel"):
        data.load(tmp_path, INPUTS)


def test_a_folder_without_images_or_with_both_kinds_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images found"):
        data.load(tmp_path, INPUTS)
    picture(tmp_path / "a.png")
    picture(tmp_path / "cat" / "b.png")
    with pytest.raises(DataError, match="beside class folders"):
        data.load(tmp_path, INPUTS)


def test_a_model_without_image_input_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="4-D image input"):
        data.load(tmp_path, [("x", np.float32, (None, 10))])


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'onnxprune\[images\]'"):
        data.load(tmp_path, INPUTS).batch([0])
