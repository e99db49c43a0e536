import numpy as np
import torch
from small import cnn, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load


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
