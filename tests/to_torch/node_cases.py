"""The ONNX project's own cases, one or more per op, and the table of those that do not pass, with the reasons.

`python tests/to_torch/node_cases.py` writes the table anew, after onnx or the converters changed.
"""

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxprune.errors import ConversionError
from onnxprune.to_torch import load
from onnxprune.to_torch.operands import to_tensor

TABLE = Path(__file__).parents[2] / "docs" / "to_torch_cases.md"
RANDOM = dict.fromkeys(
    ("test_bernoulli" + end for end in ("", "_expanded", "_double", "_double_expanded", "_seed", "_seed_expanded")),
    "the specification leaves open which random numbers are drawn",
)
DEVIATING = {
    **RANDOM,
    "test_training_dropout": "a module in eval mode does not drop",
    "test_training_dropout_mask": "a module in eval mode does not drop",
    "test_training_dropout_default": "a module in eval mode does not drop",
    "test_training_dropout_default_mask": "a module in eval mode does not drop",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime rounds the length, and so do we",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime rounds the length, and so do we",
}
"""Cases that load and compute something else."""


@cache
def cases() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the makers of some cases overflow on purpose
        return {case.name: case for case in load_model_tests(kind="node")}


def refused() -> dict[str, str]:
    """Cases that do not load, each with the op and the reason, as the table has them."""
    rows = re.findall(r"^\| `(\w+)` \| refused \| (.*) \|$", TABLE.read_text(), re.MULTILINE)
    return {name: reason for name, reason in rows if name in cases()}


def torch_value(value: Any) -> Any:
    """A value of a case as the module takes it: a tensor, a list of them, or None."""
    if value is None:
        return None
    if isinstance(value, list):
        return [torch_value(v) for v in value]
    return tensor(value)


def tensor(value: NDArray[np.generic] | onnx.TensorProto) -> Tensor:
    return to_tensor(value if isinstance(value, onnx.TensorProto) else onnx.numpy_helper.from_array(value))


def refusal(case: TestCase) -> str | None:
    """Why a case does not load, in a few words; None where it does."""
    try:
        load(case.model)
    except ConversionError as error:
        found = re.search(r"\(([\w.]+)-\d+: ([^)]*)\)", str(error))
        return re.sub(r"'[^']*'", "a value", f"{found[1]}: {found[2]}" if found else str(error))
    return None


def table() -> str:
    reasons = {name: reason for name, case in cases().items() if (reason := refusal(case))}
    passing = len(cases()) - len(reasons) - len(DEVIATING)
    rows = [f"| `{name}` | refused | {reason} |" for name, reason in sorted(reasons.items())]
    rows += [f"| `{name}` | deviates | {reason} |" for name, reason in sorted(DEVIATING.items())]
    return "\n".join(
        [
            "# The node tests of ONNX that to_torch does not pass",
            "",
            f"Of the {len(cases())} node tests of onnx {onnx.__version__}, {passing} pass, {len(reasons)} are refused",
            f"by `to_torch.load` with one error that names the op, and {len(DEVIATING)} compute something else.",
            "Written by `python tests/to_torch/node_cases.py`.",
            "",
            "| case | | reason |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    TABLE.write_text(table())
