"""Train the digits network and write digits.onnx (BatchNormalization kept) and digits_folded.onnx (folded).

    python models/digits/train.py [--out DIR] [--epochs N] [--data DIR]

With --data it trains nothing, but writes digits_calibration.npz, the training digits without labels, and
digits_test.npz, the held-out ones with them. Needs torch, onnx, onnxruntime and scikit-learn; takes a minute or two on
one CPU core.
"""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from network import DigitsNet, build
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import save

SEED = 0
HELD_OUT = 450
BATCH = 64
PEAK_LR = 0.2
WEIGHT_DECAY = 1e-3
OPSET = 18

Arrays = tuple[np.ndarray, np.ndarray]


def split() -> tuple[Arrays, Arrays]:
    """Training (1,347) and held-out (450) digits: x float32 (n, 1, 8, 8) in 0..1, y int64 (n,)."""
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=HELD_OUT, random_state=SEED, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel each way, zeros coming in from outside."""
    n, _, h, w = x.shape
    dy, dx = torch.randint(0, 3, (2, n, 1), generator=generator)
    rows, columns = dy + torch.arange(h), dx + torch.arange(w)
    padded = F.pad(x, (1, 1, 1, 1))
    return padded[torch.arange(n)[:, None, None, None], 0, rows[:, None, :, None], columns[:, None, None, :]]


def train(model: nn.Module, data: Arrays, epochs: int) -> None:
    """SGD with Nesterov momentum under one learning-rate cycle; the held-out digits play no part."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = (torch.from_numpy(array) for array in data)
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), PEAK_LR, 0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, epochs=epochs, steps_per_epoch=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(shifted(x[chosen], generator)), y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}", flush=True)
    model.eval()


def folded(model: DigitsNet) -> DigitsNet:
    """The same function with every BatchNorm merged into the convolution before it."""
    model = copy.deepcopy(model)
    model.conv, model.bn = fuse_conv_bn_eval(model.conv, model.bn), nn.Identity()
    for block in model.blocks:
        block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
        if len(block.shortcut):
            block.shortcut = nn.Sequential(fuse_conv_bn_eval(*block.shortcut))
    return model


def export(model: nn.Module, path: Path) -> None:
    """Write the ONNX file: input `x` (batch, 1, 8, 8), output `logits` (batch, 10), no external data."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 8, 8),),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNormalization away
    )
    onnx.checker.check_model(path, full_check=True)


def check(model: nn.Module, path: Path, data: Arrays) -> float:
    """Accuracy in onnxruntime, after making sure that it computes what torch computes."""
    x, y = data
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    with torch.no_grad():
        difference = np.abs(model(torch.from_numpy(x)).numpy() - logits).max() / np.abs(logits).max()
    if difference > 1e-5:
        raise SystemExit(f"{path}: onnxruntime and torch differ by {difference:.1e} of the largest logit")
    return float((logits.argmax(1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits network and export it twice.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the ONNX files")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--data", type=Path, help="write the digits as .npz here, and train nothing")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # one thread makes the sums, hence the weights, repeatable on one machine
    training, held_out = split()
    if arguments.data is not None:
        save(arguments.data, "digits", {"x": training[0]}, {"x": held_out[0]}, held_out[1])
        return
    model = build()
    train(model, training, arguments.epochs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, network in (("digits.onnx", model), ("digits_folded.onnx", folded(model))):
        path = arguments.out / name
        export(network, path)
        accuracy = check(model, path, held_out)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, held-out accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
