"""Single nodes of com.microsoft, in both engines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from small import Array, in_onnxruntime, in_torch

from onnxprune.to_torch import load

DOMAIN = "com.microsoft"


def single(
    op: str,
    inputs: Mapping[str, Array | None],
    *,
    fed: Sequence[str],
    outputs: int = 1,
    domain: str = DOMAIN,
    version: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node; the inputs in `fed` are the graph's, the others initializers, None ones left out."""
    given = {name: np.asarray(value) for name, value in inputs.items() if value is not None}
    names = [name if name in given else "" for name in inputs]
    results = [f"o{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    ends = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(given[name].dtype), given[name].shape
        )
        for name in fed
    ]
    held = [numpy_helper.from_array(value, name) for name, value in given.items() if name not in fed]
    graph = helper.make_graph([node], op, ends, [onnx.ValueInfoProto(name=name) for name in results], held)
    opsets = [helper.make_opsetid("", version), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def agree(
    op: str,
    inputs: Mapping[str, Array | None],
    *,
    fed: Sequence[str] = (),
    rtol: float = 1e-4,
    atol: float = 1e-5,
    **facts: Any,
) -> None:
    """Both engines give the same, by default with the first input as the graph's; and so on any device."""
    fed = fed or [next(iter(inputs))]
    made = single(op, inputs, fed=fed, **facts)
    values = [np.asarray(inputs[name]) for name in fed]
    theirs = in_onnxruntime(made, *values)
    elsewhere = load(made).to("meta")(*(torch.from_numpy(value).to("meta") for value in values))
    assert {y.device.type for y in (elsewhere if isinstance(elsewhere, tuple) else (elsewhere,))} == {"meta"}
    for ours, expected in zip(in_torch(load(made), *values), theirs, strict=True):
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(ours.astype(float), expected.astype(float), rtol=rtol, atol=atol)
