import re

import onnx
import pytest
import torch
from _pytest.mark import ParameterSet
from node_cases import cases, refused, tensor

from onnxprune.errors import ConversionError
from onnxprune.to_torch import load

DEVIATING = {
    "test_training_dropout": "a module in eval mode does not drop",
    "test_training_dropout_mask": "a module in eval mode does not drop",
    "test_training_dropout_default": "a module in eval mode does not drop",
    "test_training_dropout_default_mask": "a module in eval mode does not drop",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime rounds the length, and so do we",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime rounds the length, and so do we",
}
WRITTEN_OUT = re.compile("_expanded|attention_|_sce_|_nllloss_")
# The expected values round intermediate results in other places; these are a few units in the last place.
LOW_PRECISION = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


def _quick_and_slow() -> list[ParameterSet]:
    """Function bodies wait for the full run: cases written out as other ops, and ops that we write out."""
    return [
        pytest.param(name, marks=pytest.mark.slow if WRITTEN_OUT.search(name) else ())
        for name in sorted(set(cases()) - refused())
    ]


@pytest.mark.parametrize("name", _quick_and_slow())
def test_agrees_with_the_specification(name: str) -> None:
    if name in DEVIATING:
        pytest.skip(DEVIATING[name])
    case = cases()[name]
    module = load(case.model)
    for inputs, outputs in case.data_sets:
        with torch.no_grad():
            result = module(*map(tensor, inputs))
        for ours, expected in zip(result if isinstance(result, tuple) else (result,), outputs, strict=True):
            want = tensor(expected)
            tolerance = LOW_PRECISION.get(want.dtype, 0)
            assert (ours.dtype, ours.shape) == (want.dtype, want.shape)
            wide = torch.complex128 if want.is_complex() else torch.float64
            rtol, atol = max(case.rtol, tolerance), max(case.atol, 1e-7, tolerance)
            torch.testing.assert_close(ours.to(wide), want.to(wide), rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", sorted(refused() & set(cases())))
def test_refuses_what_cannot_be_said_in_torch(name: str) -> None:
    with pytest.raises(ConversionError):
        load(cases()[name].model)


def test_most_of_the_specification_is_supported() -> None:
    assert len(set(cases()) - refused()) > 0.8 * len(cases())
    assert onnx.defs.onnx_opset_version() >= 20
