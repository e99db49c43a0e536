"""Norms over the open channels: the one op against the body that stands in gated models."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from small import draw, in_onnxruntime, in_torch, model
from torch import Tensor

from onnxprune import gates, groups
from onnxprune import model as files
from onnxprune.methods.gate import gate
from onnxprune.to_torch import load

NORMS = {
    "layer norm": (17, ["scale", "bias"], "LayerNormalization", {}),
    "without a bias": (17, ["scale"], "LayerNormalization", {"epsilon": 0.1}),
    "over two axes": (17, ["wide", "shift"], "LayerNormalization", {"axis": 1}),
    "root mean square": (23, ["scale"], "RMSNormalization", {"epsilon": 1e-3}),
}
HELD = {"scale": draw(6, seed=1), "bias": draw(6, seed=2), "wide": draw(4, 6, seed=1), "shift": draw(4, 6, seed=2)}


def gated(name: str) -> onnx.ModelProto:
    """x -> MatMul -> norm -> MatMul, the channels between them gated, some closed."""
    opset, operands, op, settings = NORMS[name]
    nodes = [
        helper.make_node("MatMul", ["x", "into"], ["h"], name="into"),
        helper.make_node(op, ["h", *operands], ["n"], name="norm", **settings),
        helper.make_node("MatMul", ["n", "out"], ["y"], name="out"),
    ]
    held = {n: HELD[n] for n in operands} | {"into": draw(5, 6, seed=3), "out": draw(6, 3, seed=4)}
    loaded = files.load(model(nodes, {"x": [2, 4, 5]}, ["y"], held, opset=opset))
    found = groups.find(loaded)
    gates.insert(found, {})
    made = files.to_proto(loaded)
    for initializer in made.graph.initializer:
        if initializer.name.startswith("gate/") and len(initializer.dims) == 1 and initializer.dims[0] == 6:
            latents = np.array([0.5, -0.3, 0.2, 0.1, -0.2, 0.7], np.float32)
            initializer.CopyFrom(onnx.numpy_helper.from_array(latents, initializer.name))
    return made


def as_body(made: onnx.ModelProto) -> onnx.ModelProto:
    """With the norm's function under a name that no converter has."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    for held in (*copy.functions, *copy.graph.node):
        field = "name" if isinstance(held, onnx.FunctionProto) else "op_type"
        if getattr(held, field).startswith("Gated"):
            setattr(held, field, "Body")
    return copy


def soft(w: Tensor) -> Tensor:
    return torch.sigmoid(3 * w)


def nearly_none(w: Tensor) -> Tensor:
    """In sum less than 1, which a mean then divides by."""
    return 0.1 * torch.relu(w)


VALUES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "of the file": None, "trained": gate, "soft": soft, "nearly none": nearly_none,
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", NORMS)
def test_is_the_body_with_its_gradients(name: str, value: str) -> None:
    made = gated(name)
    results = []
    for proto in (made, as_body(made)):
        module = load(proto, gate_value=VALUES[value])
        x = torch.from_numpy(draw(2, 4, 5)).requires_grad_()
        y = module(x)
        (y * torch.from_numpy(draw(*y.shape, seed=7))).sum().backward()
        results.append({"y": y.detach(), "x": x.grad} | {n: p.grad for n, p in module.named_parameters()})
    assert len(results[0]) >= 5
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_is_what_onnxruntime_computes(name: str) -> None:
    made, x = gated(name), draw(2, 4, 5)
    module = load(made)
    assert any("Norm" in type(m).__name__ for m in module.modules())
    np.testing.assert_allclose(in_torch(module, x)[0], in_onnxruntime(made, x)[0], rtol=1e-4, atol=1e-5)
