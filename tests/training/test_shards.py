"""Any sample of any shard at any time; a shard that is not whole is refused before training."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from onnxprune.errors import DataError
from onnxprune.training import data

IMAGE = [("image", np.float32, (None, 3, 8, 8))]
VECTOR = [("v", np.float32, (None, 4))]
RAW = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def png(level, size=(8, 8), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(file, "png")
    return file.getvalue()


def npy(value):
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def three(folder):
    """Shards of 2, 1 and 3 grey images, each the number of its sample, of a class 10 times that."""
    numbers = iter(range(6))
    for at, count in enumerate((2, 1, 3)):
        members = {}
        for k in range(count):
            number = next(numbers)
            members |= {f"s/{k}.png": png(number), f"s/{k}.cls": str(10 * number).encode()}
        shard(folder / f"train-{at:03}.tar", members)


@pytest.mark.parametrize("named", ["", "train-{000..002}.tar", "train-00{0,1,2}.tar", "t{r,r}ain-000.tar"])
def test_shards_are_read_in_order_however_they_are_named(tmp_path, named):
    three(tmp_path)
    loaded = data.load(tmp_path / named, IMAGE, **RAW)
    numbers = [0, 1, 0, 1] if named.startswith("t{") else list(range(6))
    assert loaded.labels.tolist() == [10 * n for n in numbers]
    rows = [3, 0, 2]
    levels = loaded.batch(rows)[0][:, 0, 4, 4] * 255
    np.testing.assert_allclose(levels, [numbers[row] for row in rows], atol=1e-4)


def test_only_headers_are_read_beforehand(tmp_path):
    path = shard(tmp_path / "a.tar", {f"{k}.png": png(k) for k in range(3)})
    content = bytearray(path.read_bytes())
    spoilt = content.index(b"IDAT", content.index(b"2.png"))
    content[spoilt : spoilt + 8] = bytes(8)
    path.write_bytes(content)
    loaded = data.load(path, IMAGE)
    loaded.batch([0, 1])
    with pytest.raises(DataError, match=r"a\.tar: 2\.png: cannot be read as an image"):
        loaded.batch([0, 2])


LABELS = {
    "cls": (lambda k: str(k).encode(), [0, 1, 2], np.int64),
    "json": (lambda k: json.dumps({"label": k, "by": "me"}).encode(), [0, 1, 2], np.int64),
    "y.npy": (lambda k: npy(np.float64(k / 2)), [0, 0.5, 1], np.float32),
    "label.npy": (lambda k: npy(np.full(2, k)), [[0, 0], [1, 1], [2, 2]], np.int64),
    "seg.png": (lambda k: png(k, (1, 1), "L"), [[[0]], [[1]], [[2]]], np.int64),
}


@pytest.mark.parametrize("suffix", LABELS)
@pytest.mark.parametrize("image", ["png", "JPG", "webp"])
def test_labels_of_every_form(tmp_path, suffix, image):
    make, wanted, dtype = LABELS[suffix]
    members = {}
    for k in range(3):
        members |= {f"{k}.{image}": png(7, (1, 1)), f"{k}.{suffix}": make(k), f"{k}.txt": b"no matter"}
    loaded = data.load(shard(tmp_path / "a.tar", members), [("i", np.float32, (None, 3, 1, 1))])
    labels = loaded.labels_of([2, 0])
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, np.asarray(wanted)[[2, 0]])


def test_images_of_several_kinds_mix(tmp_path):
    path = shard(tmp_path / "a.tar", {"0.png": png(1), "1.jpg": png(2), "2.ppm": png(3)})
    assert len(data.load(path, IMAGE)) == 3


@pytest.mark.parametrize("suffix", ["npy", "v.npy", "x.npy"])
def test_arrays_of_one_input(tmp_path, suffix):
    values = np.arange(12.0).reshape(3, 4)
    path = shard(tmp_path / "a.tar", {f"{k}.{suffix}": npy(v) for k, v in enumerate(values)})
    loaded = data.load(path, VECTOR)
    assert loaded.labels is None
    np.testing.assert_array_equal(loaded.batch([2, 1])[0], values[[2, 1]].astype(np.float32))


def test_arrays_and_images_of_several_inputs(tmp_path):
    members = {}
    for k in range(2):
        members |= {f"{k}.v.1.npy": npy(np.full(4, k)), f"{k}.Left.png": png(k), f"{k}.cls": b"0"}
    inputs = [("Left", np.float32, (None, 3, 8, 8)), ("v.1", np.int64, (None, 4))]
    left, v = data.load(shard(tmp_path / "a.tar", members), inputs, **RAW).batch([1])
    assert (left.shape, v.tolist()) == ((1, 3, 8, 8), [[1, 1, 1, 1]])


def test_pixels_in_arrays_are_images(tmp_path):
    path = shard(tmp_path / "a.tar", {"0.npy": npy(np.full((8, 8, 3), 51, np.uint8))})
    np.testing.assert_allclose(data.load(path, IMAGE, **RAW).batch([0])[0], 0.2, atol=1e-6)


FINE = {"0.png": png(0), "0.cls": b"0", "1.png": png(1), "1.cls": b"1"}
BAD = {
    "no label": (
        {k: v for k, v in FINE.items() if k != "1.cls"}, r"1\.png: 1 of 2 samples have no \.cls", IMAGE,
    ),
    "no image": ({k: v for k, v in FINE.items() if k != "0.png"}, r"0\.cls: 1 of 2 samples have no \.image", IMAGE),
    "some json labels": (
        {"0.png": png(0), "0.json": b'{"label": 1}', "1.png": png(0), "1.json": b"{}"},
        r'1\.json: has no "label"', IMAGE,
    ),
    "no json": ({"0.png": png(0), "0.json": b"{label"}, r"0\.json: no JSON", IMAGE),
    "text class": ({"0.png": png(0), "0.cls": b"cat"}, r"0\.cls: 'cat' is no class number", IMAGE),
    "no image at all": ({"0.png": b"none"}, r"0\.png: cannot be read as an image: it is of no known", IMAGE),
    "cut image": ({"0.png": png(0)[:48]}, r"0\.png: cannot be read as an image", IMAGE),
    "nothing": ({}, "holds no samples", IMAGE),
    "nothing that fits": ({"0.txt": b"a"}, r"no member fits the input 'image' among \.txt", IMAGE),
    "image for a vector": ({"0.png": png(0)}, "4-D image input", VECTOR),
    "NaN": ({"0.npy": npy(np.full(4, np.nan))}, "NaN in 1 of 1", VECTOR),
    "wrong type": ({"0.npy": npy(np.zeros(4, np.int64))}, "int64, but input 'v' takes float32", VECTOR),
    "wrong shape": ({"0.npy": npy(np.zeros(5))}, r"takes \(n, 4\)", VECTOR),
    "objects": ({"0.npy": npy(np.asarray([{}], object))}, "never unpickled", VECTOR),
    "no array": ({"0.npy": b"no"}, r"0\.npy: no readable array", VECTOR),
    "twice": ({"0.npy": npy(np.zeros(4)), "0.NPY": npy(np.zeros(4))}, r"two \.npy", VECTOR),
    "labels of two shapes": (
        {"0.npy": npy(np.zeros(4)), "0.json": b'{"label": 1}', "1.npy": npy(np.zeros(4)), "1.json": b'{"label": [1]}'},
        "one type and shape", VECTOR,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("members", "says", "inputs"), BAD.values(), ids=BAD)
def test_what_cannot_be_fed_is_refused_at_load_in_one_line(tmp_path, members, says, inputs):
    with pytest.raises(DataError, match=says) as caught:
        data.load(shard(tmp_path / "a.tar", members), inputs)
    assert "\n" not in str(caught.value)
    assert "a.tar" in str(caught.value)


def test_a_sample_of_another_shape_is_named_when_it_is_read(tmp_path):
    path = shard(tmp_path / "a.tar", {"0.npy": npy(np.zeros(4)), "1.npy": npy(np.zeros(5))})
    loaded = data.load(path, VECTOR)
    with pytest.raises(DataError, match=r"1\.npy is float64 \(5,\)"):
        loaded.batch([0, 1])
    with pytest.raises(DataError, match=r"takes \(n, 4\)"):
        loaded.batch([1])


def test_a_shard_cut_off_anywhere_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", FINE)
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))
    for end in range(0, used, 100):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"a\.tar: no whole, uncompressed tar") as caught:
            data.load(path, IMAGE)
        assert "\n" not in str(caught.value)


def test_a_compressed_shard_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="uncompressed"):
        data.load(tmp_path / "a.tar", IMAGE)


def test_a_missing_shard_of_a_pattern_is_named(tmp_path):
    three(tmp_path)
    with pytest.raises(DataError, match=r"train-003\.tar: no such file: 2 of 5 shards"):
        data.load(tmp_path / "train-{000..004}.tar", IMAGE)


def test_a_shard_that_shrinks_meanwhile_is_told(tmp_path):
    path = shard(tmp_path / "a.tar", FINE)
    loaded = data.load(path, IMAGE)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="shorter than it was"):
        loaded.batch([1])
