"""What the recipes share: the loop that trains, the export with its check, the .npz files."""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

OPSET = 18

Batch = tuple[Tensor, ...]
Arrays = dict[str, Any]
"""numpy arrays by the names of a model's inputs."""


def arguments(description: str, epochs: int) -> argparse.Namespace:
    """The command line of a recipe: SOURCE, --nets, --data, --epochs, --seed; sets torch's seed, and one thread."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", type=Path, help="folder of the unpacked data set")
    parser.add_argument("--nets", type=Path, default=Path(), help="folder for the trained network")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder for the calibration and test inputs"
    )
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    found = parser.parse_args()
    torch.manual_seed(found.seed)
    torch.set_num_threads(1)  # one thread makes the sums, hence the weights, repeatable on one machine
    return found


def train(
    model: nn.Module,
    epochs: int,
    batches: Callable[[torch.Generator], Iterable[Batch]],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    peak: float,
    seed: int,
) -> None:
    """AdamW under one cycle of the learning rate up to `peak`; leaves the model in evaluation mode.

    `batches` yields one epoch, as many batches in each.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = sum(1 for _ in batches(torch.Generator()))
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, epochs=epochs, steps_per_epoch=steps)
    model.train()
    start = time.perf_counter()
    for epoch in range(epochs):
        total = 0.0
        for batch in batches(generator):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        spent = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  {spent:.0f} s", flush=True)
    model.eval()


def write(model: nn.Module, inputs: Arrays, path: Path, output: str = "logits") -> None:
    """Write the ONNX file: BatchNormalization kept, weights under the module's names, the batch dynamic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        tuple(torch.from_numpy(values) for values in inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes={name: {0: "batch"} for name in (*inputs, output)},
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=False,  # it lays the weights of linear layers out anew, under other names
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNormalization away
    )
    onnx.checker.check_model(path, full_check=True)


def export(model: nn.Module, inputs: Arrays, path: Path) -> None:
    """As `write`; SystemExit where onnxruntime and torch differ on `inputs` by over 1e-5 of the largest logit."""
    write(model, inputs, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, inputs)
    with torch.no_grad():
        expected = model(*(torch.from_numpy(values) for values in inputs.values())).numpy()
    difference = np.abs(expected - found).max() / np.abs(expected).max()
    if difference > 1e-5:
        raise SystemExit(f"{path}: onnxruntime and torch differ by {difference:.1e} of the largest logit")


def save(folder: Path, name: str, calibration: Arrays, test: Arrays, y: np.ndarray) -> None:
    """Write NAME_calibration.npz, inputs without labels, and NAME_test.npz, inputs and the labels `y`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}_calibration.npz", **calibration)
    np.savez_compressed(folder / f"{name}_test.npz", **test, y=y)
    for part, arrays in (("calibration", calibration), ("test", {**test, "y": y})):
        print(f"{name}_{part}.npz:", ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in arrays.items()))


def chosen(n: int, count: int, seed: int) -> np.ndarray:
    """`count` of n indices, without repetition, in rising order."""
    return np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
