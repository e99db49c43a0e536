import logging

import numpy as np
import pytest
import torch
from onnx import helper
from small import draw, in_onnxruntime, in_torch, model
from torch import nn

from onnxprune.to_torch import load

STATISTICS = {
    "scale": draw(3, seed=1),
    "bias": draw(3, seed=2),
    "mean": draw(3, seed=3),
    "var": np.abs(draw(3, seed=4)),
}


def batch_norm(*, momentum: float = 0.8, opset: int = 17, **values: np.ndarray) -> object:
    nodes = [
        helper.make_node("BatchNormalization", ["x", *STATISTICS], ["y"], momentum=momentum, epsilon=1e-3)
    ]
    return model(nodes, {"x": ["N", 3, 5, 5]}, ["y"], STATISTICS | values, opset=opset)


def original(momentum: float = 0.8) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(3, eps=1e-3, momentum=1 - momentum)
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    state = {ours: torch.from_numpy(STATISTICS[theirs]) for ours, theirs in names.items()}
    module.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    return module


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_in_train_mode_it_is_torchs_own_layer_for_several_steps(opset: int) -> None:
    ours, theirs = load(batch_norm(opset=opset)).train(), original().train()
    for step in range(3):
        x = torch.from_numpy(draw(4, 3, 5, 5, seed=step) + step)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.get_buffer("mean"), theirs.running_mean)
    torch.testing.assert_close(ours.get_buffer("var"), theirs.running_var)


def test_its_gradients_are_torchs_own() -> None:
    ours, theirs = load(batch_norm()).train(), original().train()
    x, weight = torch.from_numpy(draw(4, 3, 5, 5)), torch.from_numpy(draw(4, 3, 5, 5, seed=9))
    (ours(x) * weight).sum().backward()
    (theirs(x) * weight).sum().backward()
    torch.testing.assert_close(ours.get_parameter("scale").grad, theirs.weight.grad)
    torch.testing.assert_close(ours.get_parameter("bias").grad, theirs.bias.grad)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_in_eval_mode_it_is_the_files_layer_and_its_statistics_stay(opset: int) -> None:
    made, x = batch_norm(opset=opset), draw(2, 3, 5, 5)
    module = load(made)
    np.testing.assert_allclose(in_torch(module, x)[0], in_onnxruntime(made, x)[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(module.get_buffer("mean"), torch.from_numpy(STATISTICS["mean"]))


def test_statistics_that_other_nodes_read_stay_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "scale", "bias", "bias", "var"], ["y"]),
    ]
    made = model(nodes, {"x": ["N", 3, 5, 5]}, ["y"], {n: STATISTICS[n] for n in ("scale", "bias", "var")})
    with caplog.at_level(logging.WARNING):
        module = load(made).train()
    assert "'bias' among them, are shared" in caplog.text
    module(torch.from_numpy(draw(4, 3, 5, 5))).sum().backward()
    assert torch.equal(module.get_parameter("bias"), torch.from_numpy(STATISTICS["bias"]))


def test_layer_norm_takes_a_scale_that_only_broadcasts() -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "scale"], ["y"], axis=1)]
    made = model(nodes, {"x": [2, 3, 4]}, ["y"], {"scale": draw(1, 4)})
    x = draw(2, 3, 4)
    expected = torch.nn.functional.layer_norm(torch.from_numpy(x), [3, 4]) * torch.from_numpy(draw(1, 4))
    np.testing.assert_allclose(in_torch(load(made), x)[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_group_norm_of_an_input_that_lies_channels_last_has_gradients() -> None:
    """The backward pass of PyTorch 2.13's own crashes the process."""
    values = {"scale": draw(4, seed=1), "bias": draw(4, seed=2)}
    nodes = [helper.make_node("GroupNormalization", ["x", *values], ["y"], num_groups=2)]
    module = load(model(nodes, {"x": ["N", 4, 7, 4]}, ["y"], values, opset=21))
    x = torch.from_numpy(draw(2, 4, 7, 4))
    gradients = []
    for laid_out in (x, x.to(memory_format=torch.channels_last)):
        module.zero_grad()
        module(laid_out).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    torch.testing.assert_close(*gradients)
