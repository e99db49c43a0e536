import math

import numpy as np
import pytest
import torch
from small import cnn, draw, in_onnxruntime, in_torch

from onnxprune.methods.gate import gate
from onnxprune.to_torch import load
from onnxprune.to_torch.ops.gate import Gate


def test_closes_channels_as_the_file_does() -> None:
    x = draw(2, 3, 8, 8)
    np.testing.assert_allclose(
        in_torch(load(cnn(gated=True)), x)[0], in_onnxruntime(cnn(gated=True), x)[0], rtol=1e-5, atol=1e-6
    )


def test_takes_its_factor_from_gate_value() -> None:
    x = torch.from_numpy(draw(2, 3, 8, 8))
    all_open = load(cnn(gated=True), gate_value=lambda w: (w > -2).to(w.dtype))
    assert torch.equal(all_open(x), load(cnn())(x))


def test_sends_gradients_to_the_latents() -> None:
    module = load(cnn(gated=True), gate_value=torch.sigmoid)
    module(torch.from_numpy(draw(2, 3, 8, 8))).sum().backward()
    gradient = module.get_parameter("gate/stem").grad
    assert gradient is not None
    assert gradient.shape == (6,)
    assert bool(gradient.any())


VALUES = {"default": None, "trained": gate}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("held", [math.inf, -math.inf, math.nan])
def test_a_closed_channel_is_0_whatever_it_holds(name: str, held: float) -> None:
    x, w = torch.tensor([[1.0, held, 3.0]], requires_grad=True), torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    y = Gate(gate_value=VALUES[name])(x, w)
    assert y.tolist() == [[1, 0, 3]]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 1]]
    assert w.grad is None or w.grad.tolist() == [1, 0, 3]


def test_a_closed_channels_latent_gets_the_gradient_of_the_product() -> None:
    x, w = torch.from_numpy(draw(2, 3, 4)), torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    weight = torch.from_numpy(draw(2, 3, 4, seed=1))
    (Gate(gate_value=gate)(x, w) * weight).sum().backward()
    torch.testing.assert_close(w.grad, (x * weight).sum((0, 2))[:, None])


@pytest.mark.parametrize("name", VALUES)
def test_a_gate_keeps_the_type_of_what_passes(name: str) -> None:
    x, w = torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([1.0, -1.0, 1.0])
    assert Gate(gate_value=VALUES[name])(x, w).dtype == torch.bfloat16
