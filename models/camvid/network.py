"""A small U-Net for road scenes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 11
WIDTHS = (16, 32, 64, 96)  # at 1, 1/2, 1/4 and 1/8 of the image's sides


class Pair(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm and ReLU: (n, c, h, w) -> (n, o, h, w)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class UNet(nn.Module):
    """Encoder and decoder of Ronneberger et al. 2015 with skips by concatenation.

    (n, 3, h, w) -> logits (n, 11, h, w), h and w multiples of 8. Two steps up are ConvTranspose, the last is Resize.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.down1, self.down2, self.down3, self.bottom = Pair(3, a), Pair(a, b), Pair(b, c), Pair(c, d)
        self.lift3, self.up3 = nn.ConvTranspose2d(d, c, 2, 2), Pair(2 * c, c)
        self.lift2, self.up2 = nn.ConvTranspose2d(c, b, 2, 2), Pair(2 * b, b)
        self.up1 = Pair(b + a, a)
        self.classifier = nn.Conv2d(a, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        three = self.down3(F.max_pool2d(two, 2))
        y = self.bottom(F.max_pool2d(three, 2))
        y = self.up3(torch.cat([self.lift3(y), three], 1))
        y = self.up2(torch.cat([self.lift2(y), two], 1))
        y = self.up1(torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), one], 1))
        logits: Tensor = self.classifier(y)
        return logits


def build() -> UNet:
    """The network, untrained."""
    return UNet()
