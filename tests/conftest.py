"""What all tests share: settings of Hypothesis, and where the shared data lies."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # so that tests in sub-folders import `strategies` as well

settings.register_profile(
    "repeatable",
    derandomize=True,  # the same examples in every run; `--hypothesis-profile=search` looks for new ones
    database=None,
    deadline=None,  # the first run of an example pays for onnxruntime's start
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
settings.register_profile("search", settings.get_profile("repeatable"), derandomize=False, max_examples=2000)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and models; a test that wants it is skipped where it is not."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("ONNXPRUNE_SHARED", default))
    if not folder.is_dir():
        pytest.skip("shared data not found: set ONNXPRUNE_SHARED to its folder")
    return folder
