"""onnxprune: give it any trained network as ONNX, get back a smaller, faster one that does the same job.

import onnxprune

small = onnxprune.slim("model.onnx", "small.onnx", ratio=0.5)
small.verified.max_rel_error, small.kept["macs"]
"""

import importlib
from types import ModuleType

from onnxprune.calibration import Calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.inspection import Inspection, inspect
from onnxprune.slimming import Gated, Slimmed, gate, slim
from onnxprune.training.verb import Trained, train
from onnxprune.verify import Verification, verify

from onnxprune.bench import BenchResult, bench  # isort: skip - last, since importing a module of the same name rebinds it

__version__ = "0.1.0"

__all__ = [
    "BenchResult",
    "Calibration",
    "Gated",
    "Inspection",
    "OnnxpruneError",
    "Slimmed",
    "Trained",
    "Verification",
    "__version__",
    "bench",
    "gate",
    "inspect",
    "slim",
    "train",
    "verify",
]


def __getattr__(name: str) -> ModuleType:
    """`onnxprune.to_torch`, imported when it is asked for: it needs PyTorch, and the rest does not."""
    if name == "to_torch":
        return importlib.import_module("onnxprune.to_torch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
