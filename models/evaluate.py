"""Accuracy of an ONNX file on a prepared .npz, in onnxruntime.

    python models/evaluate.py MODEL.onnx test.npz

The .npz holds the model's inputs by name and the labels `y`: an image's class (n,), a pixel's (n, h, w), a token's
(n, t); -1 is not counted. Needs numpy and onnxruntime.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

# Of CIFAR's pixels scaled to 0..1, as the checkpoints were trained.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 250
IGNORED = -1
# Labels (n, h, w) are pixels'.
PIXELS = 3


def normalized(x: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 32, 32, 3) as the CIFAR networks take them: float32 (n, 3, 32, 32). Others as they are."""
    if x.dtype != np.uint8:
        return x
    return ((x.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def classes_last(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scores shaped like `y` and the classes behind; they lay on axis 1, or on the last one for tokens."""
    return np.moveaxis(scores, 1, -1) if scores.shape[:1] + scores.shape[2:] == y.shape else scores


def scored(model: Path | onnx.ModelProto, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and scores (n, classes) of the images, pixels or tokens; what is labelled -1 is left out."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    with np.load(data, allow_pickle=False) as arrays:
        inputs, y = {name: arrays[name] for name in names}, arrays["y"]
    found = []
    for start in range(0, len(y), BATCH):
        part = slice(start, start + BATCH)
        scores = session.run(None, {name: normalized(values[part]) for name, values in inputs.items()})[0]
        found.append(classes_last(scores, y[part])[y[part] != IGNORED])
    return y[y != IGNORED], np.concatenate(found)


def confusion(model: Path | onnx.ModelProto, data: Path) -> np.ndarray:
    """How often label i was taken for class j: int64 (classes, classes)."""
    labels, scores = scored(model, data)
    guesses = scores.argmax(1)
    classes = int(max(labels.max(), guesses.max())) + 1
    return np.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes)


def accuracy(model: Path | onnx.ModelProto, data: Path) -> float:
    """Share of the images, pixels or tokens whose largest score is their label's."""
    labels, scores = scored(model, data)
    return float((scores.argmax(1) == labels).mean())


def mean_iou(counts: np.ndarray) -> float:
    """Intersection over union of what `confusion` counted, its mean over the classes that are among the labels."""
    hits, labels = np.diag(counts), counts.sum(1)
    union = labels + counts.sum(0) - hits
    return float((hits[labels > 0] / union[labels > 0]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of an ONNX file on a prepared .npz.")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    counts = confusion(arguments.model, arguments.data)
    with np.load(arguments.data, allow_pickle=False) as arrays:
        segmented = arrays["y"].ndim == PIXELS
    iou = f", mean IoU {mean_iou(counts):.2%}" if segmented else ""
    print(f"{arguments.model} on {arguments.data}: {np.trace(counts) / counts.sum():.2%}{iou}")


if __name__ == "__main__":
    main()
