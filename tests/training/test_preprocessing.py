"""Pixels are resized, laid out and normalised as asked, and it is said how."""

import numpy as np
import pytest
from PIL import Image

from onnxprune.errors import DataError
from onnxprune.training import data
from onnxprune.training.preprocessing import Preprocessing


def folder(tmp_path, size=(20, 10)):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "a.png")
    return tmp_path


def test_an_open_input_takes_the_size_asked_for(tmp_path):
    loaded = data.load(
        folder(tmp_path), [("i", np.float32, (None, 3, None, None))], preprocessing=Preprocessing(size=16)
    )
    assert loaded.batch([0])[0].shape == (1, 3, 16, 16)


def test_the_models_own_size_may_be_said_and_no_other(tmp_path):
    inputs = [("i", np.float32, (None, 3, 8, 8))]
    assert len(data.load(folder(tmp_path), inputs, preprocessing=Preprocessing(size=8))) == 1
    with pytest.raises(DataError, match="size 16 is asked for, but the model takes 8x8"):
        data.load(tmp_path, inputs, preprocessing=Preprocessing(size=16))


def test_arrays_are_not_resized_and_it_is_said():
    images = {"x": np.zeros((2, 8, 8, 3), np.uint8)}
    with pytest.raises(DataError, match="arrays are not resized"):
        data.from_arrays(
            images, [("i", np.float32, (None, 3, None, None))], preprocessing=Preprocessing(size=16)
        )


@pytest.mark.parametrize(
    ("layout", "shape"), [("auto", (1, 3, 8, 8)), ("nchw", (1, 3, 8, 8)), ("nhwc", (1, 8, 8, 3))]
)
def test_a_layout_that_the_model_leaves_open_can_be_said(tmp_path, layout, shape):
    asked = Preprocessing(size=8, layout=layout)
    dims = (None, None, None, None)
    assert (
        data.load(folder(tmp_path), [("i", np.float32, dims)], preprocessing=asked).batch([0])[0].shape
        == shape
    )


@pytest.mark.parametrize(("layout", "dims"), [("nhwc", (None, 3, 8, 8)), ("nchw", (None, 8, 8, 3))])
def test_a_layout_that_the_model_does_not_have_is_refused(tmp_path, layout, dims):
    asked = Preprocessing(layout=layout)
    with pytest.raises(DataError, match="another layout"):
        data.load(folder(tmp_path), [("i", np.float32, dims)], preprocessing=asked)
    with pytest.raises(DataError, match=f"laid out {layout}"):
        data.from_arrays(
            {"x": np.zeros((1, 8, 8, 3), np.uint8)}, [("i", np.float32, dims)], preprocessing=asked
        )


@pytest.mark.parametrize(("wrong", "says"), [({"layout": "chw"}, "auto, nchw, nhwc"), ({"size": 0}, "width")])
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(DataError, match=says):
        Preprocessing(**wrong)


def test_it_is_described_in_one_line(tmp_path):
    asked = Preprocessing(mean=[0, 0.5, 0.25], std=[1, 0.5, 0.25])
    loaded = data.load(folder(tmp_path), [("i", np.float32, (None, 3, 224, 224))], preprocessing=asked)
    assert loaded.describe() == (
        "input 'i': images of 224x224 pixels (others resized, shorter side to 256, and cropped at the centre), nchw, "
        "scaled to 0..1, mean 0 0.5 0.25, std 1 0.5 0.25"
    )
    arrays = data.from_arrays({"x": np.zeros((1, 8, 8, 3), np.uint8)}, [("i", np.float32, (None, 3, 8, 8))])
    assert arrays.describe() == (
        "input 'i': images of 8x8 pixels, nchw, scaled to 0..1, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    )
    assert data.from_arrays({"x": np.zeros((1, 2))}, [("i", np.float32, (None, 2))]).describe() == ""
