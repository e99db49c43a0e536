"""The user's own function gives the data: arrays, or a dataset read sample by sample."""

import sys

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.training import data

IMAGE = [("image", np.float32, (None, 3, 8, 8))]
TWO = [("a", np.float32, (None, 2)), ("b", np.int64, (None,))]

MODULE = '''
import numpy as np, torch
from PIL import Image

class Listed:
    """Item k is made of k by `make`; how often each was made is counted."""
    def __init__(self, make, count=5):
        self.make, self.count, self.made = make, count, []
    def __len__(self):
        return self.count
    def __getitem__(self, k):
        self.made.append(k)
        return self.make(k)

def float_image(k): return torch.full((3, 8, 8), float(k))

def arrays(): return {"x": np.zeros((4, 3, 8, 8), np.float32), "y": np.arange(4)}
def tensors(): return {"x": torch.zeros(4, 3, 8, 8), "y": torch.arange(4)}
def tuples(): return Listed(lambda k: (float_image(k), k))
def unlabelled(): return Listed(float_image)
def dicts(): return Listed(lambda k: {"image": float_image(k), "y": k, "path": "ignored"})
def by_x(): return Listed(lambda k: {"x": float_image(k), "y": torch.tensor(k)})
def pictures(): return Listed(lambda k: (Image.new("RGB", (8, 8), (k, k, k)), k))
def uint8(): return Listed(lambda k: (torch.full((3, 8, 8), k, dtype=torch.uint8), k))
def torchs(): return torch.utils.data.TensorDataset(torch.stack([float_image(k) for k in range(5)]), torch.arange(5))
def masks(): return Listed(lambda k: (float_image(k), np.full((8, 8), k)))
def two(): return Listed(lambda k: ([float(k)] * 2, k, k / 2))
def two_dicts(): return Listed(lambda k: {"b": k, "a": [float(k)] * 2, "y": k / 2})

def raises(): raise KeyError("nothing here")
def text(): return 5
def empty(): return Listed(float_image, 0)
def no_array(): return {"z": np.zeros(3)}
def wrong_size(): return Listed(lambda k: (np.zeros((3, 9, 9), np.float32), k))
def wrong_type(): return Listed(lambda k: (np.zeros((3, 8, 8), np.int32), k))
def nan(): return Listed(lambda k: (np.full((3, 8, 8), np.nan, np.float32), k))
def text_label(): return Listed(lambda k: (float_image(k), "cat"))
def too_many(): return Listed(lambda k: (float_image(k), k, k))
def no_input(): return Listed(lambda k: {"picture": float_image(k)})
def fails(): return Listed(lambda k: 1 / k)
needs_argument = lambda folder: folder
number = 5

def later_fails(): return Listed(lambda k: (float_image(k) / [1, 1, 1][k], k))
def later_nan(): return Listed(lambda k: (float_image(k if k < 3 else float("nan")), k))
def later_shape(): return Listed(lambda k: (np.zeros((3, 8, 8 + k // 3), np.float32), k))
def later_label(): return Listed(lambda k: (float_image(k), k) if k < 3 else (float_image(k),))
def later_kind(): return Listed(lambda k: (float_image(k), k if k < 3 else k / 2))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mydata.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mydata", None)


@pytest.mark.parametrize("name", ["arrays", "tensors"])
def test_a_mapping_of_arrays_is_as_an_npz(folder, name):
    loaded = data.load(f"mydata:{name}", IMAGE)
    assert loaded.labels_of([3]).tolist() == [3]
    assert loaded.batch([3])[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", ["tuples", "dicts", "by_x", "pictures", "uint8", "torchs"])
def test_items_of_every_form_are_inputs_and_labels(folder, name):
    loaded = data.load(f"mydata:{name}", IMAGE, mean=[0], std=[1 / 255])
    rows = [4, 0, 2]
    assert loaded.labels_of(rows).tolist() == rows
    assert loaded.labels_of(rows).dtype == np.int64
    (batch,) = loaded.batch(rows)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, np.ones((3, 3, 8, 8)) * np.reshape(rows, (3, 1, 1, 1)), atol=1e-5)


def test_items_without_labels_are_unlabelled(folder):
    assert data.load("mydata:unlabelled", IMAGE).labels is None


def test_masks_are_labels(folder):
    np.testing.assert_array_equal(data.load("mydata:masks", IMAGE).labels_of([2]), np.full((1, 8, 8), 2))


@pytest.mark.parametrize("name", ["two", "two_dicts"])
def test_several_inputs_and_a_target(folder, name):
    loaded = data.load(f"mydata:{name}", TWO)
    a, b = loaded.batch([3])
    assert (a.tolist(), b.tolist(), loaded.labels_of([3]).tolist()) == ([[3, 3]], [3], [1.5])
    assert [a.dtype, b.dtype] == [np.float32, np.int64]


def test_each_sample_of_a_batch_is_made_once_for_all_its_parts(folder):
    loaded = data.load("mydata:two", TWO)
    made = loaded.columns[0].values.values.items.dataset.made
    made.clear()
    loaded.batch([1, 3])
    loaded.labels_of([1, 3])
    assert made == [1, 3]


def test_a_module_in_another_folder_is_found_there(folder, monkeypatch):
    monkeypatch.chdir("/")
    assert len(data.load(folder / "mydata:tuples", IMAGE)) == 5


BAD = {
    "raises": "mydata:raises: KeyError: 'nothing here'",
    "text": "returned int: return a mapping of arrays, or a dataset",
    "empty": "holds no samples",
    "no_array": "has z, but not the model's input",
    "wrong_size": r"takes \(n, 3, 8, 8\)",
    "wrong_type": "int32, but input 'image' takes float32",
    "nan": "NaN in 1 of 1",
    "text_label": "class number or target",
    "too_many": "sample 0: gives 3 values where the inputs are image",
    "no_input": "sample 0: gives 'picture' where",
    "fails": "sample 0: ZeroDivisionError: division by zero",
    "needs_argument": "TypeError: .* missing 1 required positional",
    "number": "is of type int: name a function",
    "nothing": "AttributeError",
}


@pytest.mark.parametrize(("name", "says"), BAD.items(), ids=BAD)
def test_what_cannot_be_fed_is_refused_at_load_in_one_line(folder, name, says):
    with pytest.raises(DataError, match=says) as caught:
        data.load(f"mydata:{name}", IMAGE)
    assert "\n" not in str(caught.value)
    assert f"mydata:{name}" in str(caught.value)


LATER = {
    "later_fails": "sample 3: IndexError",
    "later_nan": "NaN in 1 of 2",
    "later_shape": r"sample 3 is float32 \(3, 8, 9\)",
    "later_label": "sample 3: has no 'y'",
    "later_kind": "give all samples one type and shape",
}


@pytest.mark.parametrize(("name", "says"), LATER.items(), ids=LATER)
def test_a_later_sample_that_does_not_fit_is_named_when_it_is_read(folder, name, says):
    loaded = data.load(f"mydata:{name}", IMAGE)
    with pytest.raises(DataError, match=says) as caught:
        (loaded.batch([2, 3]), loaded.labels_of([2, 3]))
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_or_does_not_parse_is_refused(folder):
    with pytest.raises(DataError, match=r"nomodule:f, looked for in .*: ModuleNotFoundError"):
        data.load("nomodule:f", IMAGE)
    (folder / "wrong.py").write_text("def f(:")
    with pytest.raises(DataError, match="SyntaxError"):
        data.load("wrong:f", IMAGE)
