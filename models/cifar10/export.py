"""Turn a CIFAR-10 ResNet checkpoint into ONNX.

    python models/cifar10/export.py CHECKPOINT.th [-o resnet20.onnx] [--fold]

Reads the state dicts of the akamaster ResNet-20/32/44/56/110; the depth follows from the file. Needs torch,
onnx, numpy and onnxruntime.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 18


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


def load(checkpoint: Path) -> ResNet:
    """The trained network in evaluation mode; only tensors are read, no pickled code is run."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in saved["state_dict"].items()}
    model = ResNet(blocks=len({name.split(".")[1] for name in state if name.startswith("layer1.")}))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SystemExit(
            f"{checkpoint}: not a CIFAR ResNet; missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return model.eval()


def fold(model: ResNet) -> None:
    """Merge every BatchNorm into the convolution before it; the function stays the same."""
    model.conv1, model.bn1 = fuse_conv_bn_eval(model.conv1, model.bn1), nn.Identity()
    for block in (*model.layer1, *model.layer2, *model.layer3):
        block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()


def export(model: ResNet, path: Path) -> None:
    """Write the ONNX file: input `x` (batch, 3, 32, 32), output `logits` (batch, 10), no external data."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, 32, 32),),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNormalization away
    )
    onnx.checker.check_model(path, full_check=True)


def difference(model: ResNet, path: Path) -> float:
    """How far onnxruntime and torch are apart on random images, relative to the largest logit."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        return float(np.abs(model(x).numpy() - logits).max() / np.abs(logits).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn a CIFAR-10 ResNet checkpoint into ONNX.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="default: resnetNN.onnx in the current folder")
    parser.add_argument("--fold", action="store_true", help="fold BatchNormalization into the convolutions")
    arguments = parser.parse_args()

    model = load(arguments.checkpoint)
    depth = 6 * len(model.layer1) + 2
    if arguments.fold:
        fold(model)
    output = arguments.output or Path(f"resnet{depth}{'_folded' if arguments.fold else ''}.onnx")
    export(model, output)
    print(f"{output}: ResNet-{depth}, {output.stat().st_size / 1e6:.2f} MB, ", end="")
    print(f"onnxruntime and torch differ by {difference(model, output):.1e} of the largest logit")


if __name__ == "__main__":
    main()
