"""The law on fresh torchvision exports, through the tool that makes the full table."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "torchvision_law.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2"])
def test_exports_of_both_exporters_are_halved_exactly(network: str, tmp_path: Path) -> None:
    """Static and dynamic batch; max_rel_error <= 1e-5 and at most 0.30 of the MACs, or the tool exits with 1."""
    command = [sys.executable, str(TOOL), "--cache", str(tmp_path), "--only", network]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"{network}.") >= 4
