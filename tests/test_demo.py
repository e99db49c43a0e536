"""The demo keeps what the README promises of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune import demo as the_demo
from onnxprune.cli import main
from onnxprune.errors import DataError
from onnxprune.verify import Verification

QUICK = ["demo", "--epochs", "1", "--json"]


def test_a_quick_demo_says_everything_about_both_models(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*QUICK, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["slim"]["macs"] <= 0.30 * said["original"]["macs"]
    assert said["slim"]["bytes"] < said["original"]["bytes"] == (tmp_path / "digits.onnx").stat().st_size
    assert said["max_rel_error"] <= 1e-5
    assert 0 < said["low"] <= said["speedup"] <= said["high"]
    assert {file.name for file in tmp_path.iterdir()} == {
        "digits.onnx", "digits.gated.onnx", "digits.trained.gated.onnx", "digits.closed.onnx", "digits.slim.onnx",
    }  # fmt: skip


def test_a_broken_law_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Verification(1e-3, 1e-5, 5)
    monkeypatch.setattr(the_demo, "verify", lambda *_args, **_options: wrong)
    result = CliRunner().invoke(main, [*QUICK, "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "Error: " in result.stderr and "differ" in result.stderr


def test_held_out_digits_are_not_trained_on() -> None:
    (x, y), (held_x, held_y) = the_demo.digits()
    assert x.shape == (1347, 1, 8, 8) and held_x.shape == (450, 1, 8, 8)
    assert len(y) == 1347 and set(held_y) == set(range(10))
    seen = {image.tobytes() for image in x}
    assert np.mean([image.tobytes() in seen for image in held_x]) < 0.01  # equal drawings apart


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'onnxprune\[demo\]'"):
        the_demo.digits()


@pytest.mark.slow
def test_the_demo_reaches_its_targets(tmp_path: Path) -> None:
    """At most 0.30 of the MACs, at most one point of accuracy, faster, and the law."""
    result = the_demo.demo(tmp_path)
    assert result.slim.macs <= 0.30 * result.original.macs
    assert result.slim.accuracy >= result.original.accuracy - 0.01
    assert result.max_rel_error <= 1e-5
    assert result.speedup > 1

