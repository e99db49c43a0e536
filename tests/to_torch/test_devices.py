"""The specification's cases on a device that is not there: FakeTensorMode knows where each tensor would lie."""

import pytest
import torch
from held_cases import with_numbers_held
from node_cases import cases, refused
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from onnxprune.to_torch import load

DEVICE = "cuda"
LEFT_OUT = (
    "bernoulli_seed", "gridsample", "lstm", "gru_", "rnn",  # no fake tensor answers for the driver
    "optional_has_element_empty",  # no input says which device
)  # fmt: skip


def _moved(value: object, mode: FakeTensorMode) -> object:
    if isinstance(value, list):
        return [_moved(v, mode) for v in value]
    return mode.from_tensor(value).to(DEVICE) if isinstance(value, Tensor) else value


def _devices(value: object) -> set[str]:
    if isinstance(value, (list, tuple)):
        return {d for v in value for d in _devices(v)}
    return {value.device.type} if isinstance(value, Tensor) else set()


def _names() -> list[str]:
    loading = sorted(cases().keys() - refused().keys())
    return [name for name in loading if not any(part in name for part in LEFT_OUT)]


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch knows no second device")
@pytest.mark.slow
@pytest.mark.parametrize("name", _names())
def test_tensors_stay_on_the_device_of_the_inputs(name: str) -> None:
    model, fed = with_numbers_held(cases()[name])
    module, mode = load(model), FakeTensorMode()
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    tensors = [(table, key, t.detach()) for table in tables for key, t in table.items() if t is not None]
    with mode, torch.no_grad():
        inputs = [_moved(value, mode) for value in fed]
        for table, key, tensor in tensors:
            there = mode.from_tensor(tensor).to(DEVICE)
            table[key] = nn.Parameter(there, False) if isinstance(table[key], nn.Parameter) else there
        try:
            result = module(*inputs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            pytest.skip("what it computes depends on the data")
    assert _devices(result) <= {DEVICE}
