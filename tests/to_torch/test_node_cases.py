import re
from typing import Any

import onnx
import pytest
import torch
from _pytest.mark import ParameterSet
from node_cases import DEVIATING, cases, refusal, refused, torch_value
from onnx.backend.test.case.test_case import TestCase
from torch import Tensor

from onnxprune.to_torch import load

WRITTEN_OUT = re.compile("_expanded|attention_|_sce_|_nllloss_")
# The expected values round intermediate results in other places; these are a few units in the last place.
LOW_PRECISION = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


def _quick_and_slow() -> list[ParameterSet]:
    """Function bodies wait for the full run: cases written out as other ops, and ops that we write out."""
    return [
        pytest.param(name, marks=pytest.mark.slow if WRITTEN_OUT.search(name) else ())
        for name in sorted(cases().keys() - refused().keys())
    ]


@pytest.mark.parametrize("name", _quick_and_slow())
def test_agrees_with_the_specification(name: str) -> None:
    if name in DEVIATING:
        pytest.skip(DEVIATING[name])
    case = cases()[name]
    module = load(case.model)
    for inputs, outputs in case.data_sets:
        with torch.no_grad():
            result = module(*map(torch_value, inputs))
        results = result if isinstance(result, tuple) else (result,)
        for ours, expected in zip(results, outputs, strict=True):
            _assert_close(ours, torch_value(expected), case)


def _assert_close(ours: Any, want: Any, case: TestCase) -> None:
    if not isinstance(want, Tensor):
        assert type(ours) is type(want)
        for one, other in zip(ours or (), want or (), strict=True):
            _assert_close(one, other, case)
        return
    tolerance = LOW_PRECISION.get(want.dtype, 0)
    assert (ours.dtype, ours.shape) == (want.dtype, want.shape)
    wide = torch.complex128 if want.is_complex() else torch.float64
    largest = torch.nan_to_num(want.to(wide), 0, 0, 0).abs().amax().item() if want.numel() else 0.0
    rtol, atol = max(case.rtol, tolerance), max(case.atol, 1e-7 * max(largest, 1), tolerance)
    torch.testing.assert_close(ours.to(wide), want.to(wide), rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", sorted(refused()))
def test_what_is_refused_says_what_the_table_says(name: str) -> None:
    assert refusal(cases()[name]) == refused()[name]


def test_sixteen_hundred_cases_of_the_specification_pass() -> None:
    assert len(cases()) - len(refused()) - len(DEVIATING) >= 1600
    assert onnx.defs.onnx_opset_version() >= 26
