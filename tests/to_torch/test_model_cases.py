"""The ONNX project's small models: exports of PyTorch modules and operators in opset 6, and its own examples."""

from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from node_cases import tensor
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from onnxprune.to_torch import load

KINDS = ("simple", "pytorch-converted", "pytorch-operator")
REFUSED = {"strnorm": "PyTorch has no strings", "gradient_of": "the gradient is PyTorch's own affair"}


@cache
def cases() -> dict[str, TestCase]:
    return {case.name: case for kind in KINDS for case in load_model_tests(kind=kind)}


def datasets(case: TestCase) -> list[tuple[list[Tensor], list[Tensor]]]:
    if case.data_sets is not None:
        return [([*map(tensor, given)], [*map(tensor, wanted)]) for given, wanted in case.data_sets]
    folders = sorted(Path(case.model_dir).glob("test_data_set_*"))
    return [(_read(folder, "input"), _read(folder, "output")) for folder in folders]


def _read(folder: Path, kind: str) -> list[Tensor]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [tensor(onnx.load_tensor(folder / f"{kind}_{i}.pb")) for i in range(count)]


@pytest.mark.parametrize("name", sorted(cases()))
def test_agrees_with_the_recorded_outputs(name: str) -> None:
    for part, reason in REFUSED.items():
        if part in name:
            pytest.skip(reason)
    case = cases()[name]
    module = load(case.model or Path(case.model_dir) / "model.onnx")
    assert datasets(case)
    for inputs, outputs in datasets(case):
        with torch.no_grad():
            result = module(*inputs)
        for ours, want in zip(result if isinstance(result, tuple) else (result,), outputs, strict=True):
            torch.testing.assert_close(ours, want, rtol=case.rtol, atol=max(case.atol, 1e-7), equal_nan=True)
