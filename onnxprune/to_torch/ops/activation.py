"""Nonlinearities, and Dropout among them."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxprune.to_torch.operands import Scalar, number
from onnxprune.to_torch.registry import converts

for _op, _since, _function in (
    ("HardSwish", 14, F.hardswish),
    ("Mish", 18, F.mish),
    ("Relu", 1, torch.relu),
    ("Sigmoid", 1, torch.sigmoid),
    ("Softplus", 1, F.softplus),
    ("Softsign", 1, F.softsign),
    ("Tanh", 1, torch.tanh),
):
    converts(_op, since=_since, inputs=1)(_function)


@converts("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@converts("Elu", since=1)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@converts("Gelu", since=20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@converts("HardSigmoid", since=1)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@converts("LeakyRelu", since=1)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@converts("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@converts("Selu", since=6)
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * F.elu(x, alpha)


@converts("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


@converts("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@converts("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0)


@converts("Softmax", since=1)
def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over everything from `axis` on."""
    return torch.softmax(_from_axis(x, axis), -1).reshape(x.shape)


@converts("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@converts("LogSoftmax", since=1)
def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over everything from `axis` on."""
    return torch.log_softmax(_from_axis(x, axis), -1).reshape(x.shape)


@converts("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@converts("Hardmax", since=1)
def hardmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13: over everything from `axis` on."""
    return hardmax(_from_axis(x, axis)).reshape(x.shape)


@converts("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def _from_axis(x: Tensor, axis: int) -> Tensor:
    return x.flatten(axis) if x.dim() else x


@converts("Dropout", since=7)
class Dropout7(nn.Module):
    """Drops in train mode only, whatever mode the file was exported in."""

    def __init__(self, *, ratio: float = 0.5, n_outputs: int = 1) -> None:
        super().__init__()
        self.ratio, self.n_outputs = ratio, n_outputs

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return _dropout(x, self.ratio if self.training else 0.0, self.n_outputs)


@converts("Dropout", since=12)
class Dropout(nn.Module):
    """Drops in train mode only, whatever `training_mode` says: that is the mode the file was exported in."""

    def __init__(self, *, seed: int = 0, n_outputs: int = 1) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def forward(
        self, x: Tensor, ratio: Scalar = 0.5, training_mode: Scalar = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        # An absent ratio comes as None where training_mode follows it.
        ratio = 0.5 if cast(float | None, ratio) is None else number(ratio)
        return _dropout(x, ratio if self.training else 0.0, self.n_outputs)


def _dropout(x: Tensor, ratio: float, n_outputs: int) -> Tensor | tuple[Tensor, Tensor]:
    if n_outputs == 1:
        return F.dropout(x, ratio) if ratio else x
    kept = torch.rand_like(x, dtype=torch.float32) >= ratio
    return torch.where(kept, x / (1 - ratio), 0) if ratio else x, kept
