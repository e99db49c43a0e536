"""Gradients of re-imported networks against those of the modules they were exported from."""

import copy
from collections.abc import Callable

import pytest
import torch
from test_torchvision import export
from torch import Tensor, nn

from onnxprune.to_torch import load

TOLERANCE = 1e-3


class Tagger(nn.Module):
    """A bidirectional LSTM of two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def picture(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        sized = {"image_size": 64} if name.startswith("vit") else {}
        return getattr(models, name)(weights=None, num_classes=10, **sized)

    return build


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet50": (picture("resnet50"), (2, 3, 64, 64)),
    "mobilenet_v3_large": (picture("mobilenet_v3_large"), (2, 3, 64, 64)),
    "convnext_tiny": (picture("convnext_tiny"), (2, 3, 64, 64)),
    "vit_b_16": (picture("vit_b_16"), (2, 3, 64, 64)),
    "lstm": (Tagger, (3, 7, 12)),
    "transformer_encoder": (encoder, (3, 9, 32)),
}


def stirred(module: nn.Module) -> nn.Module:
    """No two tensors alike, which the exporters would merge, and none zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) - 0.5
                tensor.add_(noise * (0.2 if tensor.dim() == 1 else 0.02))
                if name.endswith("running_var"):
                    tensor.abs_()
    return module.eval()


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_weights_and_inputs_are_those_of_the_original(name: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    original = stirred(build())
    x = torch.randn(shape)
    imported = load(export(copy.deepcopy(original), x, dynamo=dynamo))
    weights = torch.randn_like(original(x))
    grads = []
    for module in (original, imported):
        fed = x.clone().requires_grad_()
        (module(fed) * weights).sum().backward()
        grads.append((fed.grad, [p.grad for p in module.parameters()]))
    (want_x, want), (x_grad, ours) = grads
    assert x_grad is not None
    assert _apart(x_grad, want_x) <= TOLERANCE
    assert sum(g.numel() for g in ours) == sum(g.numel() for g in want)
    for parameter, gradient in zip(imported.parameters(), ours, strict=True):
        assert min(_apart(gradient, other) for other in _counterparts(parameter, original)) <= TOLERANCE


def _counterparts(parameter: Tensor, original: nn.Module) -> list[Tensor]:
    """The gradients of the weights that the parameter holds, laid out as the file does."""
    found = []
    for weight in original.parameters():
        for turn in (lambda t: t, lambda t: t.t() if t.dim() == 2 else t):
            turned = turn(weight)
            if turned.numel() == parameter.numel() and torch.equal(turned.reshape(parameter.shape), parameter):
                found.append(turn(weight.grad).reshape(parameter.shape))
    return found


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
