"""Small networks in torch and their exports, each in the ways that people have of exporting."""

import io
import logging
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions as in ResNet, MobileNet, SENet and ShuffleNet."""

    sample = (2, 3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.BatchNorm2d(32), nn.SiLU())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1))
        self.back = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=4), nn.GroupNorm(1, 16), nn.GELU())
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.wide(x))
        x = x + self.back(y * torch.sigmoid(self.squeeze(y)))
        n, c, h, w = x.shape
        shuffled = self.grouped(x).view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(torch.cat([x, shuffled], 1).mean((2, 3)))


class Attentive(nn.Module):
    """Two encoder blocks with packed queries, keys and values, and a pooled head."""

    sample = (2, 6, 16)

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(5))
        self.packed = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(16, 32) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))
        self.lift = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for k in range(2):
            q, key, v = self.packed[k](self.norms[2 * k](x)).view(x.shape[0], 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
            weights = torch.softmax(q @ key.transpose(-2, -1) * 0.5, -1)
            x = x + self.out[k]((weights @ v).transpose(1, 2).reshape(x.shape[0], 6, 16))
            x = x + self.down[k](nn.functional.gelu(self.up[k](self.norms[2 * k + 1](x))))
        return self.head(self.norms[4](x).mean(1))


def torch_export(network: type[nn.Module], *, dynamo: bool = False, seed: int = 0, **options: Any) -> onnx.ModelProto:
    """The network with random weights, as this exporter writes it."""
    torch.manual_seed(seed)
    made = network().eval()
    with torch.no_grad():
        for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2)
    sample, file = (torch.randn(made.sample),), io.BytesIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older exporter is deprecated, its files are not
            if dynamo:
                return torch.onnx.export(made, sample, dynamo=True, verbose=False, **options).model_proto
            torch.onnx.export(made, sample, file, dynamo=False, **options)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load_from_string(file.getvalue())
