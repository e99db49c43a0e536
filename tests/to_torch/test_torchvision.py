"""Networks as both exporters of PyTorch write them, against the original modules."""

import io
import logging
import warnings

import onnx
import pytest
import torch
from torch import nn

from onnxprune.to_torch import load, write_back


def export(module: nn.Module, x: torch.Tensor, *, dynamo: bool) -> onnx.ModelProto:
    """With batch normalization and dropout left as they are, and the batch size open."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of their own deprecations
        if dynamo:
            sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=sizes, optimize=False
            )
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        torch.onnx.export(
            module, (x,), file, dynamo=False, do_constant_folding=False, opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
        return onnx.load_from_string(file.getvalue())


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 5),
    )


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_original_module(dynamo: bool) -> None:
    original = small_cnn()
    with torch.no_grad():
        for n, tensor in enumerate((*original.parameters(), *original.buffers())):
            if tensor.dim() == 1:  # apart from each other: the exporters merge tensors of equal values
                tensor.uniform_(0.5 + n, 1.5 + n)
    x = torch.randn(4, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    imported = load(export(original.eval(), x, dynamo=dynamo))
    original(x).square().sum().backward()
    imported(x).square().sum().backward()
    gradients = {name: p.grad for name, p in imported.named_parameters()}
    for name, parameter in original.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_trains_step_by_step_like_the_original_module() -> None:
    original = small_cnn()
    with torch.no_grad():
        original(torch.randn(8, 3, 14, 14))  # statistics apart from the scales, lest the exporter merge them
    original.eval()
    imported = load(export(original, torch.randn(2, 3, 14, 14), dynamo=False)).train()
    original.train()
    optimizers = [torch.optim.SGD(m.parameters(), 0.01, momentum=0.9) for m in (original, imported)]
    for step in range(3):
        x = torch.randn(8, 3, 14, 14, generator=torch.Generator().manual_seed(step))
        losses = []
        for module, optimizer in zip((original, imported), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(module(x).square().mean())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    x = torch.randn(4, 3, 14, 14)
    torch.testing.assert_close(original.eval()(x), imported.eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0", "swin_t"])
def test_a_network_computes_the_same_after_the_round_trip(name: str, dynamo: bool) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    original = getattr(models, name)(weights=None).eval()
    made = export(original, torch.randn(2, 3, 64, 64), dynamo=dynamo)
    imported = load(made)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(imported(x), original(x), rtol=1e-4, atol=1e-4)
    assert write_back(imported, made) == made
