"""The CIFAR-10 networks of the literature: ResNet-20 to 110, VGG-16 with BatchNorm, DenseNet-40."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (type A of He et al. 2015).

    (n, c, h, w) -> (n, o, h/s, w/s)
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(out)
        self.stride, self.new_channels = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            half = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


class ResNet(nn.Module):
    """ResNet-(6n + 2), n blocks each at 16, 32 and 64 channels: (n, 3, 32, 32) -> logits (n, 10)."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(torch.flatten(self.pool(y), 1))


class VGG16(nn.Module):
    """The 13 convolutions of VGG-16 (Simonyan and Zisserman 2014), each with BatchNorm, and one linear layer.

    (n, 3, 32, 32) -> logits (n, 10); 313 M MACs, as in the pruning papers since Li et al. 2017.
    """

    WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: halve the image

    def __init__(self) -> None:
        super().__init__()
        layers, channels = list[nn.Module](), 3
        for width in self.WIDTHS:
            if width:
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Grown(nn.Module):
    """What a dense block adds: (n, c, h, w) -> (n, c + growth, h, w)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class DenseNet40(nn.Module):
    """DenseNet-40 with growth 12, neither bottlenecks nor compression (Huang et al. 2017).

    (n, 3, 32, 32) -> logits (n, 10).
    """

    def __init__(self, layers: int = 12, growth: int = 12) -> None:
        super().__init__()
        channels = 16
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range(layers):
                parts.append(Grown(channels, growth))
                channels += growth
            if block < 2:
                convolution = nn.Conv2d(channels, channels, 1, bias=False)
                parts += [nn.BatchNorm2d(channels), nn.ReLU(), convolution, nn.AvgPool2d(2)]
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def fresh(name: str, seed: int = 0) -> nn.Module:
    """An untrained network: resnetNN, vgg16 or densenet40, convolutions initialised as He et al. 2015 do."""
    torch.manual_seed(seed)
    if name.startswith("resnet"):
        network: nn.Module = ResNet((int(name.removeprefix("resnet")) - 2) // 6)
    else:
        network = {"vgg16": VGG16, "densenet40": DenseNet40}[name]()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network.eval()
