"""The ONNX project's own cases, one or more per op, and the list of those that cannot be re-imported.

`python tests/to_torch/node_cases.py` writes the list anew, after onnx or the converters changed.
"""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxprune.errors import ConversionError
from onnxprune.to_torch import load
from onnxprune.to_torch.operands import to_tensor

REFUSED = Path(__file__).with_name("refused_cases.txt")


@cache
def cases() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the makers of some cases overflow on purpose
        return {case.name: case for case in load_model_tests(kind="node")}


def refused() -> set[str]:
    return set(REFUSED.read_text().split())


def tensor(value: NDArray[np.generic] | onnx.TensorProto) -> Tensor:
    return to_tensor(value if isinstance(value, onnx.TensorProto) else onnx.numpy_helper.from_array(value))


def is_refused(case: TestCase) -> bool:
    try:
        load(case.model)
    except ConversionError:
        return True
    return False


if __name__ == "__main__":
    REFUSED.write_text("\n".join(sorted(name for name, case in cases().items() if is_refused(case))) + "\n")
