import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from onnxprune.session import open_session

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "models" / "digits" / "digits.onnx"
FOLDED = ROOT / "models" / "digits" / "digits_folded.onnx"


@pytest.fixture(scope="module")
def held_out():
    """The 450 digits that the recipe never trained on: x (450, 1, 8, 8), y (450,)."""
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    _, x, _, y = train_test_split(x, digits.target, test_size=450, random_state=0, stratify=digits.target)
    return x, y


def python(*command) -> str:
    """What a recipe's script prints when it is run as its README says."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("path", "norms"), [(DIGITS, 15), (FOLDED, 0)], ids=["kept", "folded"])
def test_the_committed_digits_are_small_valid_and_self_contained(path, norms):
    assert path.stat().st_size < 1.5e6
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert Counter(node.op_type for node in model.graph.node)["BatchNormalization"] == norms
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert 100_000 < sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) < 500_000


@pytest.mark.parametrize("path", [DIGITS, FOLDED], ids=["kept", "folded"])
def test_the_committed_digits_take_any_batch(path):
    model = onnx.load(path)
    (x,), (logits,) = model.graph.input, model.graph.output
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (x, logits)
    ]
    assert (x.name, logits.name) == ("x", "logits")
    assert shapes == [["batch", 1, 8, 8], ["batch", 10]]


@pytest.mark.parametrize("path", [DIGITS, FOLDED], ids=["kept", "folded"])
def test_the_committed_digits_recognise_what_they_have_not_seen(path, held_out):
    x, y = held_out
    (logits,) = open_session(path, threads=1).run(None, {"x": x})
    assert (logits.argmax(1) == y).mean() >= 0.985


def test_kept_and_folded_digits_are_the_same_function(held_out):
    kept, folded = (
        open_session(path, threads=1).run(None, {"x": held_out[0]})[0] for path in (DIGITS, FOLDED)
    )
    assert np.abs(kept - folded).max() / np.abs(kept).max() <= 1e-5


@pytest.mark.slow
def test_the_digits_recipe_runs_and_exports_both_files(tmp_path):
    printed = python("-W", "ignore", ROOT / "models/digits/train.py", "--epochs", 1, "--out", tmp_path)
    assert printed.count("held-out accuracy") == 2
    committed = onnx.load(DIGITS)
    fresh = onnx.load(tmp_path / "digits.onnx")
    assert [node.op_type for node in fresh.graph.node if node.op_type != "Identity"] == [
        node.op_type for node in committed.graph.node if node.op_type != "Identity"
    ]
    assert (tmp_path / "digits_folded.onnx").is_file()


def test_the_digits_recipe_writes_inputs_without_labels_and_held_out_ones_with_them(tmp_path, held_out):
    python(ROOT / "models/digits/train.py", "--data", tmp_path)
    calibration, test = (np.load(tmp_path / f"digits_{part}.npz") for part in ("calibration", "test"))
    assert (calibration.files, calibration["x"].shape) == (["x"], (1347, 1, 8, 8))
    np.testing.assert_array_equal(test["x"], held_out[0])
    assert python(ROOT / "models/evaluate.py", DIGITS, tmp_path / "digits_test.npz").endswith("99.33%\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits_calibration.npz", "digits_test.npz"]


def test_the_cifar_split_is_stratified_disjoint_and_always_the_same(tmp_path):
    recipe = ROOT / "models/cifar10/prepare_data.py"
    y = np.repeat(np.arange(10), 30)
    x = np.zeros((300, 32, 32, 3), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.arange(300) % 256, np.arange(300) // 256
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "test.npz", x=x[:7], y=y[:7])
    for out in ("a", "b"):
        python(recipe, tmp_path, tmp_path / out)
    train, val, test = (np.load(tmp_path / "a" / f"{name}.npz") for name in ("train", "val", "test"))
    assert np.bincount(train["y"]).tolist() == [27] * 10
    assert np.bincount(val["y"]).tolist() == [3] * 10
    assert len(test["y"]) == 7
    assert len(np.unique(np.concatenate([train["x"], val["x"]]), axis=0)) == 300
    np.testing.assert_array_equal(np.load(tmp_path / "b" / "val.npz")["x"], val["x"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--fold"]], ids=["kept", "folded"])
def test_resnet20_for_cifar10_has_its_known_accuracy(shared, tmp_path, options):
    checkpoint = shared / "data/checkpoints/akamaster_resnet20-12fca82f.th"
    model = tmp_path / "resnet20.onnx"
    python("-W", "ignore", ROOT / "models/cifar10/export.py", checkpoint, "-o", model, *options)
    python(shared / "data/unpack.py", "cifar10", tmp_path)
    printed = python(ROOT / "models/evaluate.py", model, tmp_path / "test.npz")
    assert printed.endswith("91.50%\n")
    ops = Counter(node.op_type for node in onnx.load(model).graph.node)
    assert ops["BatchNormalization"] == (0 if options else 19)
