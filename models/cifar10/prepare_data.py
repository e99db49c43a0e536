"""Split CIFAR-10: 45,000 images to train on, 5,000 to tune on, the test images for the last figure only.

    python models/cifar10/prepare_data.py SOURCE OUT

SOURCE holds train.npz and test.npz with x uint8 (n, 32, 32, 3) and y (n,). OUT gets train.npz, val.npz and
test.npz of the same form, which is what `onnxprune train --data` takes. The split is stratified and always
the same. Needs numpy.
"""

import argparse
from pathlib import Path

import numpy as np

SEED = 0
VALIDATION_SHARE = 0.1

Arrays = tuple[np.ndarray, np.ndarray]


def load(path: Path) -> Arrays:
    """Images uint8 (n, 32, 32, 3) and labels int64 (n,)."""
    with np.load(path, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"].astype(np.int64)
    if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3):
        raise SystemExit(f"{path}: expected x uint8 (n, 32, 32, 3), found {x.dtype} {x.shape}")
    return x, y


def split(x: np.ndarray, y: np.ndarray) -> tuple[Arrays, Arrays]:
    """The same tenth of every class for validation, the rest for training, both in their first order."""
    rng = np.random.default_rng(SEED)
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        held[rng.choice(members, round(VALIDATION_SHARE * len(members)), replace=False)] = True
    return (x[~held], y[~held]), (x[held], y[held])


def main() -> None:
    parser = argparse.ArgumentParser(description="Split CIFAR-10 into train.npz, val.npz and test.npz.")
    parser.add_argument("source", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    training, validation = split(*load(arguments.source / "train.npz"))
    parts = {"train": training, "val": validation, "test": load(arguments.source / "test.npz")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in parts.items():
        np.savez(arguments.out / f"{name}.npz", x=x, y=y)
        print(f"{name}.npz: {len(x):,} images, {np.bincount(y).tolist()} of each class")


if __name__ == "__main__":
    main()
