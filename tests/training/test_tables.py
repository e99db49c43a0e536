"""Parquet and saved datasets, whoever wrote them."""

import io
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from onnxprune.errors import DataError
from onnxprune.training import data

IMAGE = [("image", np.float32, (None, 3, 8, 8))]
VECTOR = [("v", np.float32, (None, 4))]
RAW = {"mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(level, size=(8, 8), mode="RGB"):
    return Image.new(mode, size, level if mode == "L" else (level,) * 3)


def encoded(level, **kwargs):
    file = io.BytesIO()
    picture(level, **kwargs).save(file, "png")
    return file.getvalue()


def labelled():
    """Six images, each of its number, of the classes a, b, a, b, ..."""
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "note": datasets.Value("string")}
    )  # fmt: skip
    rows = {"img": [picture(k) for k in range(6)], "label": [0, 1] * 3, "note": ["text"] * 6}
    return datasets.Dataset.from_dict(rows, features)


def as_parquet(folder, table):
    table.to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def as_folder(folder, table):
    table.select(range(4)).to_parquet(folder / "0.parquet")
    table.select(range(4, len(table))).to_parquet(folder / "1.parquet")
    return folder


def as_saved(folder, table):
    table.save_to_disk(folder / "saved")
    return folder / "saved"


def as_splits(folder, table):
    datasets.DatasetDict({"test": table.select([0]), "train": table}).save_to_disk(folder / "splits")
    return folder / "splits"


def as_shuffled(folder, table):
    return as_saved(folder, table.select(range(len(table))[::-1]).select(range(len(table))[::-1]))


FORMS = [as_parquet, as_folder, as_saved, as_splits, as_shuffled]


@pytest.mark.parametrize("form", FORMS)
def test_images_and_classes_come_back_in_any_order(tmp_path, form):
    loaded = data.load(form(tmp_path, labelled()), IMAGE, **RAW)
    assert loaded.classes == ("a", "b")
    assert loaded.labels.tolist() == [0, 1] * 3
    np.testing.assert_allclose(loaded.batch([5, 0, 3])[0][:, 0, 4, 4] * 255, [5, 0, 3], atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_numbers_are_arrays(tmp_path, form):
    values = np.arange(24.0).reshape(6, 4)
    table = datasets.Dataset.from_dict({"v": values.tolist(), "y": [k / 2 for k in range(6)]})
    loaded = data.load(form(tmp_path, table), VECTOR)
    np.testing.assert_array_equal(loaded.batch([4, 1])[0], values[[4, 1]].astype(np.float32))
    np.testing.assert_array_equal(loaded.labels, np.arange(6, dtype=np.float32) / 2)


def test_arrays_of_pixels_keep_their_type(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    features = datasets.Features({"x": datasets.Array3D((8, 8, 3), "uint8")})
    table = datasets.Dataset.from_dict({"x": images}, features)
    loaded = data.load(as_saved(tmp_path, table), IMAGE, **RAW)
    np.testing.assert_allclose(loaded.batch([2])[0] * 255, images[2:].transpose(0, 3, 1, 2), atol=1e-4)


def test_parquet_of_pandas_with_encoded_images(tmp_path):
    frame = pd.DataFrame({"picture": [encoded(k) for k in range(3)], "label": [2, 1, 0]})
    frame.to_parquet(tmp_path / "a.parquet")
    loaded = data.load(tmp_path / "a.parquet", IMAGE, **RAW)
    assert loaded.labels.tolist() == [2, 1, 0]
    np.testing.assert_allclose(loaded.batch([2])[0] * 255, 2, atol=1e-4)


@pytest.mark.parametrize("name", ["annotation", "mask", "label"])
def test_masks_are_labels(tmp_path, name):
    features = datasets.Features({"image": datasets.Image(), name: datasets.Image()})
    rows = {"image": [picture(1), picture(2)], name: [picture(3, mode="L"), picture(4, mode="L")]}
    loaded = data.load(as_saved(tmp_path, datasets.Dataset.from_dict(rows, features)), IMAGE)
    np.testing.assert_array_equal(loaded.labels_of([1]), np.full((1, 8, 8), 4))


def test_several_inputs_and_wide_labels(tmp_path):
    rows = {"ids": [[1, 2], [3, 4]], "v": np.ones((2, 4)).tolist(), "labels": [[1, 0, 2], [0, 1, 1]]}
    path = as_saved(tmp_path, datasets.Dataset.from_dict(rows))
    loaded = data.load(path, [*VECTOR, ("ids", np.int64, (None, 2))])
    assert loaded.batch([1])[1].tolist() == [[3, 4]]
    assert loaded.labels_of([1]).tolist() == [[0, 1, 1]]


def test_a_table_is_mapped_and_its_rows_are_not_read_at_load(tmp_path, monkeypatch):
    path = as_saved(tmp_path, labelled())
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(1) or real(file))
    data.load(path, IMAGE)
    assert len(opened) == 1


def table(**columns):
    return pa.table(columns)


PNG = encoded(0)
BAD = {
    "no column": (table(a=["x"], b=[1]), r"no column fits .* among 'a' \(other\), 'b' \(number\)", IMAGE),
    "two that could be": (table(a=[PNG], b=[PNG]), "no column fits", IMAGE),
    "no samples": (table(img=pa.array([], pa.binary())), "holds no samples", IMAGE),
    "missing labels": (table(img=[PNG] * 3, y=[0, None, None]), "'y': 2 of 3 are missing, the first in row 1", IMAGE),
    "missing images": (table(img=[PNG, None]), "column 'img': 1 of 2 are missing, the first in row 1", IMAGE),
    "text labels": (table(img=[PNG], y=["cat"]), "labels 'y' are string", IMAGE),
    "text": (table(image=["cat"]), "column 'image' is string", IMAGE),
    "no image": (table(img=[b"none"]), "row 0 of column 'img': cannot be read", IMAGE),
    "a path": (table(img=[{"bytes": None, "path": "/etc/passwd"}]), "holds no image, but a path", IMAGE),
    "unequal": (table(v=[[1.0] * 4, [1.0] * 5], y=[[1, 2], [1]]), "lists of the lengths 4, 5", VECTOR),
    "NaN labels": (table(v=[[1.0] * 4], y=[float("nan")]), "hold NaN", VECTOR),
    "NaN": (table(v=[[1.0, 1.0, 1.0, float("nan")]]), "NaN in 1 of 1", VECTOR),
    "wrong type": (table(v=[[1, 2, 3, 4]]), "int64, but input 'v' takes float32", VECTOR),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says", "inputs"), BAD.values(), ids=BAD)
def test_what_cannot_be_fed_is_refused_in_one_line(tmp_path, content, says, inputs):
    pq.write_table(content, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=says) as caught:
        data.load(tmp_path / "a.parquet", inputs).batch(range(len(content)))
    assert "\n" not in str(caught.value)
    assert "a.parquet" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", None])
def test_a_broken_table_is_refused_in_one_line(tmp_path, content):
    path = as_parquet(tmp_path, labelled())
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(DataError, match="cannot be read as a table") as caught:
        data.load(path, IMAGE)
    assert "\n" not in str(caught.value)


def test_a_saved_dataset_without_its_arrow_file_is_refused(tmp_path):
    path = as_saved(tmp_path, labelled())
    next(path.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="cannot be read as a table"):
        data.load(path, IMAGE)


def test_splits_without_train_are_listed(tmp_path):
    datasets.DatasetDict({"test": labelled()}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="has the splits test, but no 'train'"):
        data.load(tmp_path / "splits", IMAGE)


def test_without_the_library_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'onnxprune\[data\]'"):
        data.load(tmp_path / "a.parquet", IMAGE)
