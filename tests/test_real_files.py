"""Files from the wild, of many exporters: each is slimmed exactly."""

from pathlib import Path

import pytest

from onnxprune.slimming import slim


@pytest.mark.slow
def test_every_shared_file_is_halved_exactly(shared: Path, subtests: pytest.Subtests) -> None:
    files = sorted((shared / "data" / "onnx").glob("*.onnx"))
    assert files
    for path in files:
        with subtests.test(path.name):
            result = slim(path, ratio=0.5)
            assert result.verified.max_rel_error <= 1e-5
            assert result.kept["channels"] == pytest.approx(0.5, abs=0.02)
            assert not result.frozen
