"""The specification's cases under torch.compile: one graph, but for what depends on the data."""

import pytest
import torch
from held_cases import with_numbers_held
from node_cases import DEVIATING, cases, refused

from onnxprune.to_torch import load

DEPENDING_ON_DATA = ("data-dependent", "non-integer tensor", "dynamic shape", "Dynamic shape")
LEFT_OUT = ("_expanded", "loop", "sequence_map", "_if", "optional", "scan")  # written out, or of bodies


def _names() -> list[str]:
    loading = sorted(cases().keys() - refused().keys() - DEVIATING.keys())
    return [name for name in loading if not any(part in name for part in LEFT_OUT)]


@pytest.mark.slow
@pytest.mark.parametrize("name", _names())
def test_an_op_compiles_as_one_graph(name: str) -> None:
    model, fed = with_numbers_held(cases()[name])
    module = load(model)
    torch.compiler.reset()
    try:
        ours = torch.compile(module, fullgraph=True, backend="eager")(*fed)
    except (torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError) as error:
        if any(words in str(error) for words in DEPENDING_ON_DATA):
            pytest.skip("what it computes depends on the data")
        raise
    torch.testing.assert_close(ours, module(*fed), equal_nan=True)
