"""One shot on a network that was trained: what is asked is met, what is promised is kept."""

from pathlib import Path

import pytest

from onnxprune import demo, slim
from onnxprune.calibration import Calibration

pytestmark = pytest.mark.slow

NET = Path(__file__).parents[2] / "models/digits/digits.onnx"


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration({"x": demo.digits()[0][0][:256]})


@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
@pytest.mark.parametrize("by", ["channels", "params", "macs"])
@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_what_is_asked_for_is_met_within_a_hundredth(calibration, scope, by, ratio):
    found = slim(
        NET, ratio=ratio, by=by, scope=scope, multiple_of=1, repair="none", calibration=calibration
    )
    assert abs(found.kept[by] - ratio) <= 0.01


def test_the_same_seed_gives_the_same_bytes_distilled_too(calibration, tmp_path):
    for name in ("one.onnx", "other.onnx"):
        slim(NET, tmp_path / name, ratio=0.5, by="macs", distill=2, seed=7, calibration=calibration)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
