"""Accuracy of an ONNX file on a prepared .npz, in onnxruntime.

    python models/cifar10/evaluate.py MODEL.onnx test.npz

Needs numpy and onnxruntime.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

MEAN = np.array(
    [0.485, 0.456, 0.406], np.float32
)  # of pixels scaled to 0..1, as the checkpoints were trained
STD = np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 250


def normalized(x: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 32, 32, 3) as the networks take them: float32 (n, 3, 32, 32)."""
    return ((x.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def accuracy(model: Path, data: Path) -> float:
    """Share of the images whose largest logit is their label's."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(data, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    right = 0
    for start in range(0, len(x), BATCH):
        part = slice(start, start + BATCH)
        logits = session.run(None, {name: normalized(x[part])})[0]
        right += int((logits.argmax(1) == y[part]).sum())
    return right / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of an ONNX file on a prepared .npz.")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    print(f"{arguments.model} on {arguments.data}: {accuracy(arguments.model, arguments.data):.2%}")


if __name__ == "__main__":
    main()
