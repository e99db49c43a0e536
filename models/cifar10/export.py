"""Write a CIFAR-10 network as ONNX: a trained ResNet from its checkpoint, or an untrained network to train.

    python models/cifar10/export.py CHECKPOINT.th [-o resnet20.onnx] [--fold]
    python models/cifar10/export.py vgg16 [--seed 0]                              # or densenet40, resnet56

Reads the state dicts of the akamaster ResNet-20/32/44/56/110; the depth follows from the file. Needs torch,
onnx, numpy and onnxruntime.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from networks import ResNet, fresh
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 18


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


def export(model: nn.Module, path: Path) -> None:
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


def difference(model: nn.Module, path: Path) -> float:
    """How far onnxruntime and torch are apart on random images, relative to the largest logit."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        return float(np.abs(model(x).numpy() - logits).max() / np.abs(logits).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CIFAR-10 network as ONNX.")
    parser.add_argument("network", help="a ResNet's checkpoint, or vgg16, densenet40, resnetNN for an untrained one")
    parser.add_argument("-o", "--output", type=Path, help="default: NETWORK.onnx in the current folder")
    parser.add_argument("--fold", action="store_true", help="fold a ResNet's BatchNormalization away")
    parser.add_argument("--seed", type=int, default=0, help="of an untrained network's weights")
    arguments = parser.parse_args()

    name = arguments.network
    if Path(name).is_file():
        model: nn.Module = load(Path(name))
        name = f"resnet{6 * len(model.layer1) + 2}"
    else:
        model = fresh(name, arguments.seed)
    if arguments.fold:
        fold(model)
    output = arguments.output or Path(f"{name}{'_folded' if arguments.fold else ''}.onnx")
    export(model, output)
    print(f"{output}: {name}, {output.stat().st_size / 1e6:.2f} MB, ", end="")
    print(f"onnxruntime and torch differ by {difference(model, output):.1e} of the largest logit")


if __name__ == "__main__":
    main()
