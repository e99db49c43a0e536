"""Whatever fits the model is read as it should be; whatever does not is a DataError in one line."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.training import data
from onnxprune.training.preprocessing import IMAGENET_MEAN, IMAGENET_STD

IMAGE = [("image", np.float32, (None, 3, 4, 5))]
RNG = np.random.default_rng(0)


def npz(tmp_path, **arrays):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    return path


def pixels(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def normalised(images):
    """(n, h, w, c) pixels as a (n, c, h, w) model input, written out."""
    return ((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("name", ["image", "x"])
def test_float_arrays_are_fed_as_they_are(tmp_path, name):
    values = RNG.normal(size=(7, 3, 4, 5)).astype(np.float32)
    loaded = data.load(npz(tmp_path, **{name: values}, y=np.arange(7)), IMAGE)
    np.testing.assert_array_equal(loaded.batch([2, 5])[0], values[[2, 5]])
    assert loaded.labels_of([2, 5]).tolist() == [2, 5]


@pytest.mark.parametrize("dims", [(None, 3, None, None), ("n", 3, "h", 5), (None, None, 4, 5)])
def test_open_axes_of_the_model_take_any_size(tmp_path, dims):
    values = RNG.normal(size=(7, 3, 4, 5)).astype(np.float32)
    loaded = data.load(npz(tmp_path, x=values), [("image", np.float32, dims)])
    np.testing.assert_array_equal(loaded.batch([1])[0], values[[1]])
    with pytest.raises(DataError, match="reshape it so"):
        data.load(npz(tmp_path, x=values[:, :2, :3]), [("image", np.float32, dims)])


def test_without_labels_the_data_is_unlabelled(tmp_path):
    assert data.load(npz(tmp_path, x=pixels(2, 4, 5, 3)), IMAGE).labels is None


def test_uint8_images_are_scaled_normalised_and_laid_out(tmp_path):
    images = pixels(6, 4, 5, 3)
    (batch,) = data.load(npz(tmp_path, x=images), IMAGE).batch(range(6))
    np.testing.assert_allclose(batch, normalised(images), atol=1e-6)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous


def test_images_already_channels_first_are_recognised(tmp_path):
    images = pixels(6, 4, 5, 3)
    loaded = data.load(npz(tmp_path, x=images.transpose(0, 3, 1, 2)), IMAGE)
    np.testing.assert_allclose(loaded.batch(range(6))[0], normalised(images), atol=1e-6)


def test_a_channels_last_model_gets_channels_last_images(tmp_path):
    images = pixels(6, 4, 5, 3)
    loaded = data.load(npz(tmp_path, x=images), [("image", np.float32, (None, 4, 5, 3))])
    np.testing.assert_allclose(loaded.batch(range(6))[0].transpose(0, 3, 1, 2), normalised(images), atol=1e-6)


def test_grey_images_may_leave_out_their_channel_axis(tmp_path):
    loaded = data.load(
        npz(tmp_path, x=pixels(2, 4, 5)), [("i", np.float32, ("n", 1, 4, 5))], mean=[0.0], std=[1.0]
    )
    (batch,) = loaded.batch([0])
    assert batch.shape == (1, 1, 4, 5)
    assert 0 <= batch.min() < batch.max() <= 1


def test_given_mean_and_std_replace_imagenets(tmp_path):
    images = pixels(1, 4, 5, 3)
    loaded = data.load(npz(tmp_path, x=images), IMAGE, mean=[0.1, 0.2, 0.3], std=[1.0, 0.5, 0.25])
    wanted = (images / 255 - [0.1, 0.2, 0.3]) / [1.0, 0.5, 0.25]
    np.testing.assert_allclose(loaded.batch([0])[0], wanted.transpose(0, 3, 1, 2), atol=1e-6)


def test_uint8_for_a_uint8_input_stays_as_it_is(tmp_path):
    images = pixels(2, 3, 4, 5)
    loaded = data.load(npz(tmp_path, x=images), [("image", np.uint8, (None, 3, 4, 5))])
    np.testing.assert_array_equal(loaded.batch([0, 1])[0], images)


def test_several_inputs_come_in_the_models_order(tmp_path):
    inputs = [("ids", np.int64, (None, 3)), ("mask", np.float32, (None, 3)), ("on", np.bool_, (None,))]
    ids, mask, on = np.arange(6, dtype=np.int32).reshape(2, 3), np.ones((2, 3)), np.asarray([True, False])
    batch = data.load(npz(tmp_path, on=on, mask=mask, ids=ids), inputs).batch([1])
    assert [b.dtype for b in batch] == [np.int64, np.float32, np.bool_]
    assert batch[0].tolist() == [[3, 4, 5]]


def test_batches_are_named_and_end_at_the_limit(tmp_path):
    loaded = data.load(npz(tmp_path, x=pixels(7, 4, 5, 3)), IMAGE)
    assert [len(b["image"]) for b in loaded.batches(3)] == [3, 3, 1]
    assert [len(b["image"]) for b in loaded.batches(3, limit=4)] == [3, 1]


def test_a_split_is_a_partition_and_the_same_for_the_same_seed(tmp_path):
    loaded = data.load(npz(tmp_path, x=pixels(10, 4, 5, 3), y=np.arange(10)), IMAGE)
    rest, held = loaded.split(0.3, seed=1)
    assert sorted([*rest.rows, *held.rows]) == list(range(10))
    assert len(held) == 3
    np.testing.assert_array_equal(held.rows, loaded.split(0.3, seed=1)[1].rows)
    assert held.labels_of([0])[0] == held.rows[0]


X = pixels(3, 4, 5, 3)
FLOATS = np.zeros((3, 3, 4, 5), np.float32)
BAD = {
    "objects": ({"x": np.asarray([{}, [], 1], object)}, "never unpickled"),
    "no array of that name": ({"z": X}, "name its array 'image' or 'x'"),
    "wrong size": (
        {"x": pixels(3, 9, 9, 3)},
        r"\(3, 9, 9, 3\) does not fit an input of shape \(\?, 3, 4, 5\)",
    ),
    "wrong rank": ({"x": np.zeros((3, 4, 5), np.float32)}, r"takes \(n, 3, 4, 5\): reshape"),
    "wrong kind": ({"x": np.zeros((3, 3, 4, 5), np.int32)}, "int32, but input 'image' takes float32"),
    "text": ({"x": np.asarray(["a", "b"])}, "as numbers"),
    "a number": ({"x": np.float32(1)}, "one sample per entry of axis 0"),
    "no samples": ({"x": X[:0]}, "holds no samples"),
    "NaN": (
        {"x": np.where(np.arange(3)[:, None, None, None] == 1, np.nan, FLOATS)},
        "NaN in 1 of 3 samples",
    ),
    "lengths": ({"x": X, "y": np.arange(2)}, "3 in 'image', 2 in 'y'"),
    "NaN labels": ({"x": X, "y": np.asarray([0, 1, np.nan])}, "labels 'y' hold NaN"),
    "text labels": ({"x": X, "y": np.asarray(["a", "b", "c"])}, "class number or target"),
}


@pytest.mark.parametrize(("arrays", "says"), BAD.values(), ids=BAD)
def test_data_that_does_not_fit_is_refused_in_one_line(tmp_path, arrays, says):
    with pytest.raises(DataError, match=says) as caught:
        data.load(npz(tmp_path, **arrays), IMAGE)
    assert "\n" not in str(caught.value)
    assert "d.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", b"\x80\x04K\x01."])
def test_a_broken_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no readable") as caught:
        data.load(path, IMAGE)
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_refused(tmp_path):
    path = npz(tmp_path, x=X)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="no readable"):
        data.load(path, IMAGE)


def test_an_npy_named_npz_and_a_missing_file_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match="give it that suffix"):
        data.load(tmp_path / "x.npz", IMAGE)
    with pytest.raises(DataError, match="no such file"):
        data.load(tmp_path / "nothing.npz", IMAGE)


@pytest.mark.parametrize("values", [X, np.moveaxis(X, -1, 1).astype(np.float64)], ids=["pixels", "floats"])
def test_an_npy_file_is_the_only_input_unlabelled_and_reads_like_the_npz(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    loaded = data.load(tmp_path / "x.npy", IMAGE)
    assert loaded.labels is None
    wanted = data.load(npz(tmp_path, x=values), IMAGE)
    np.testing.assert_array_equal(loaded.batch([2, 0])[0], wanted.batch([2, 0])[0])


def test_an_npy_file_is_mapped_and_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SCANNED", 0)
    shape = (200_000, 3, 4, 5)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)  # a sparse file
    tracemalloc.start()
    loaded = data.load(tmp_path / "x.npy", IMAGE)
    loaded.batch([0, 199_999])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * np.prod(shape) / 10


def test_nan_in_an_npy_file_is_told_at_load_or_when_it_is_read(tmp_path, monkeypatch):
    values = np.zeros((3, 3, 4, 5), np.float32)
    values[2, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match="NaN in 1 of 3"):
        data.load(tmp_path / "x.npy", IMAGE)
    monkeypatch.setattr(data, "SCANNED", 0)
    loaded = data.load(tmp_path / "x.npy", IMAGE)
    with pytest.raises(DataError, match="NaN in 1 of 2"):
        loaded.batch([0, 2])


BAD_NPY = {
    "objects": (np.asarray([{}, []], object), IMAGE, "never unpickled"),
    "wrong kind": (np.zeros((3, 3, 4, 5), np.int32), IMAGE, "takes float32"),
    "no samples": (X[:0], IMAGE, "holds no samples"),
    "a number": (np.float32(1), IMAGE, "one sample per entry"),
    "several inputs": (X, [*IMAGE, ("ids", np.int64, (None,))], "give an .npz with an array for each"),
}


@pytest.mark.parametrize(("array", "inputs", "says"), BAD_NPY.values(), ids=BAD_NPY)
def test_an_npy_file_that_does_not_fit_is_refused_in_one_line(tmp_path, array, inputs, says):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=says) as caught:
        data.load(tmp_path / "x.npy", inputs)
    assert "\n" not in str(caught.value)


def test_a_truncated_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"no readable \.npy"):
        data.load(tmp_path / "x.npy", IMAGE)


def test_integers_that_overflow_the_inputs_type_are_refused(tmp_path):
    path = npz(tmp_path, x=np.asarray([[300]]))
    with pytest.raises(DataError, match="int8 cannot hold"):
        data.load(path, [("x", np.int8, (None, 1))])


@pytest.mark.parametrize(
    ("mean", "std"), [([0.1, 0.2], None), (None, [0.0, 1.0, 1.0]), ([float("nan")] * 3, None)]
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, mean, std):
    with pytest.raises(DataError, match="give"):
        data.load(npz(tmp_path, x=X), IMAGE, mean=mean, std=std)


def test_a_held_out_part_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="held-out part"):
        data.load(npz(tmp_path, x=X), IMAGE).split(0.1)


def test_reading_data_does_not_import_torch():
    code = "import sys, onnxprune.training.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
