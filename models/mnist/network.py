"""A small convolutional network for MNIST."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MnistNet(nn.Module):
    """Four convolutions with BatchNorm at 28x28 to 7x7 pixels and two linear layers: (n, 1, 28, 28) -> (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv4, self.bn4 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.hidden = nn.Linear(64 * 3 * 3, 96)
        self.classifier = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        y = F.relu(self.bn2(self.conv2(y)))
        y = F.max_pool2d(F.relu(self.bn3(self.conv3(y))), 2)
        y = F.max_pool2d(F.relu(self.bn4(self.conv4(y))), 2)
        logits: Tensor = self.classifier(F.relu(self.hidden(torch.flatten(y, 1))))
        return logits


def build() -> MnistNet:
    """The network, untrained."""
    return MnistNet()
