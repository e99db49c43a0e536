"""The same images and labels from every source are the same data."""

import io
import pickle
import sys
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from onnxprune.training import data
from onnxprune.training.augmentation import Augmentation
from onnxprune.training.batches import Batches, drawn

INPUTS = [("image", np.float32, (None, 3, 8, 8))]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)
CLASSES = np.arange(12) // 4
MASKS = RNG.integers(0, 5, (12, 8, 8))

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # torch's default


def png(array):
    file = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def npz(folder, labels):
    np.savez(folder / "d.npz", x=IMAGES, y=labels)
    return folder / "d.npz"


def image_folder(folder, labels):
    for k, image in enumerate(IMAGES):
        file = folder / (f"{labels[k]}" if labels.ndim == 1 else "images") / f"{k:03}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png(image))
        if labels.ndim > 1:
            (folder / "masks").mkdir(exist_ok=True)
            (folder / "masks" / file.name).write_bytes(png(labels[k]))
    return folder


def shards(folder, labels):
    suffix = "cls" if labels.ndim == 1 else "seg.png"
    for at, rows in enumerate(np.array_split(np.arange(12), 3)):
        with tarfile.open(folder / f"{at}.tar", "w") as tar:
            for k in rows:
                label = str(labels[k]).encode() if labels.ndim == 1 else png(labels[k])
                for name, content in ((f"{k}.png", png(IMAGES[k])), (f"{k}.{suffix}", label)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder / "{0..2}.tar"


def table(labels):
    rows = {"image": [Image.fromarray(image) for image in IMAGES]}
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    if labels.ndim == 1:
        return datasets.Dataset.from_dict(rows | {"label": labels}, datasets.Features(features))
    masks = [Image.fromarray(mask.astype(np.uint8)) for mask in labels]
    return datasets.Dataset.from_dict(
        rows | {"label": masks}, datasets.Features(features | {"label": datasets.Image()})
    )


def parquet(folder, labels):
    table(labels).to_parquet(folder / "d.parquet")
    return folder / "d.parquet"


def saved(folder, labels):
    table(labels).save_to_disk(folder / "saved")
    return folder / "saved"


def function(folder, labels):
    np.savez(folder / "d.npz", x=IMAGES, y=labels)
    (folder / "own_source.py").write_text(
        "import numpy as np\n"
        "class Pairs:\n"
        "    def __init__(self, x, y): self.x, self.y = x, y\n"
        "    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, k): return self.x[k], self.y[k]\n"
        f"def pairs(): return Pairs(*np.load({str(folder / 'd.npz')!r}).values())\n"
    )
    return folder / "own_source:pairs"


SOURCES = [image_folder, shards, parquet, saved, function]
LABELS = {"classes": CLASSES, "masks": MASKS}


@pytest.fixture
def load(tmp_path, tmp_path_factory, monkeypatch):
    """`load(source, labels)`, with nothing left behind."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield lambda source, labels: data.load(source(tmp_path_factory.mktemp("source"), LABELS[labels]), INPUTS)
    sys.modules.pop("own_source", None)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_what_the_npz_gives(load, source, labels):
    wanted, found = load(npz, labels), load(source, labels)
    rows = [7, 0, 11, 7]
    np.testing.assert_array_equal(found.batch(rows)[0], wanted.batch(rows)[0])
    np.testing.assert_array_equal(found.labels_of(rows), wanted.labels_of(rows))
    assert found.labels.dtype == np.int64
    assert found.labels.shape == wanted.labels.shape


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_the_same_in_worker_processes(load, source, labels):
    wanted, found = load(npz, labels), load(source, labels).take(np.arange(12))
    augmentation = Augmentation.of("crop,flip")
    alone, spread = (
        list(Batches(d, torch.device("cpu"), workers=n).drawn(drawn(12, 5, 0, range(4)), augmentation))
        for d, n in ((wanted, 0), (found, 2))
    )
    for a, b in zip(alone, spread, strict=True):
        torch.testing.assert_close(a.inputs, b.inputs, rtol=0, atol=0)
        torch.testing.assert_close(a.labels, b.labels, rtol=0, atol=0)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_can_be_sent_to_a_process_started_anew(load, source):
    found = load(source, "masks")
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.batch([3])[0], found.batch([3])[0])
    np.testing.assert_array_equal(again.labels_of([3]), found.labels_of([3]))
