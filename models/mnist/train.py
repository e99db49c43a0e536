"""Train the MNIST network, export it and write its calibration and test inputs.

    python models/mnist/train.py SOURCE [--nets DIR] [--data DIR] [--epochs N] [--seed N]

SOURCE holds train.npz and test.npz with x uint8 (n, 28, 28, 1) and y (n,). Writes mnist.onnx,
mnist_calibration.npz and mnist_test.npz. Needs torch, onnx and onnxruntime.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from network import build
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from evaluate import accuracy
from recipe import Batch, arguments, chosen, export, save, train

BATCH = 128
CALIBRATION = 1024


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (n, 1, 28, 28) in 0..1 and labels int64 (n,)."""
    with np.load(path, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    return x.reshape(-1, 1, 28, 28).astype(np.float32) / 255, y.astype(np.int64)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def main() -> None:
    args = arguments("Train the MNIST network and export it.", epochs=3)
    x, y = load(args.source / "train.npz")
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        for part in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            yield images[part], labels[part]

    model = build()
    train(model, args.epochs, batches, loss, peak=4e-3, seed=args.seed)
    test, truth = load(args.source / "test.npz")
    export(model, {"x": test[:2]}, args.nets / "mnist.onnx")
    save(args.data, "mnist", {"x": x[chosen(len(x), CALIBRATION, args.seed)]}, {"x": test}, truth)
    print(f"accuracy {accuracy(args.nets / 'mnist.onnx', args.data / 'mnist_test.npz'):.2%}")


if __name__ == "__main__":
    main()
