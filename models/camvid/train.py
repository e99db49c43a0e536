"""Train the CamVid network, export it and write its calibration and test inputs.

    python models/camvid/train.py SOURCE [--nets DIR] [--data DIR] [--epochs N] [--seed N]

SOURCE holds train/*.webp and trainannot/*.png (class indices, 11 is void), and the same for test. Writes camvid.onnx,
camvid_calibration.npz and camvid_test.npz. Needs torch, onnx, onnxruntime and Pillow.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from network import CLASSES, build
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from evaluate import IGNORED, confusion, mean_iou
from recipe import Batch, arguments, chosen, export, save, train

BATCH = 8
CALIBRATION = 256
HEIGHT, WIDTH = 96, 128
SHIFT = 8  # pixels
MEAN = np.array([0.411, 0.425, 0.432], np.float32)[:, None, None]  # of the training images, pixels in 0..1
STD = np.array([0.303, 0.309, 0.304], np.float32)[:, None, None]


def load(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (n, 3, 96, 128), normalised, and classes int64 (n, 96, 128), void as -1."""
    pictures, masks = [], []
    for path in sorted((source / split).glob("*.webp")):
        image = Image.open(path).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        mask = Image.open(source / f"{split}annot" / f"{path.stem}.png")
        pictures.append((np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD)
        masks.append(np.asarray(mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST), np.int64))
    if not pictures:
        raise SystemExit(f"{source / split}: no *.webp; give the folder of the unpacked CamVid")
    y = np.stack(masks)
    return np.stack(pictures), np.where(y < CLASSES, y, IGNORED)


def moved(x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
    """All images of a batch turned left for right or not, and moved by up to 8 pixels each way; void comes in."""
    if torch.rand(1, generator=generator) < 0.5:
        x, y = x.flip(-1), y.flip(-1)
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    border = (SHIFT,) * 4
    part = (..., slice(dy, dy + HEIGHT), slice(dx, dx + WIDTH))
    return F.pad(x, border, "reflect")[part], F.pad(y, border, value=IGNORED)[part]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, ignore_index=IGNORED)


def main() -> None:
    args = arguments("Train the CamVid network and export it.", epochs=45)
    x, y = load(args.source, "train")
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        for part in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            yield moved(images[part], labels[part], generator)

    model = build()
    train(model, args.epochs, batches, loss, peak=4e-3, seed=args.seed)
    test, truth = load(args.source, "test")
    export(model, {"x": test[:2]}, args.nets / "camvid.onnx")
    save(args.data, "camvid", {"x": x[chosen(len(x), CALIBRATION, args.seed)]}, {"x": test}, truth)
    counts = confusion(args.nets / "camvid.onnx", args.data / "camvid_test.npz")
    print(f"pixel accuracy {np.trace(counts) / counts.sum():.2%}, mean IoU {mean_iou(counts):.2%}")


if __name__ == "__main__":
    main()
