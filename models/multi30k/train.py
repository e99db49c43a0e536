"""Train the German-English network, export it and write its calibration and test inputs.

    python models/multi30k/train.py SOURCE [--nets DIR] [--data DIR] [--epochs N] [--seed N]

SOURCE holds train.de, train.en, test_2016_flickr.de and .en, one sentence a line. Writes multi30k.onnx,
multi30k_calibration.npz and multi30k_test.npz. Needs torch, onnx and onnxruntime.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from network import LENGTH, PAD, WORDS, build
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from evaluate import IGNORED, accuracy
from recipe import Batch, arguments, chosen, export, save, train

BATCH = 64
CALIBRATION = 1024
UNKNOWN, BEGIN, END = 1, 2, 3

Side = list[list[str]]


def words(path: Path) -> Side:
    """The words and punctuation marks of each line, in lower case."""
    return [re.findall(r"\w+|[^\w\s]", line.lower()) for line in path.read_text("utf-8").splitlines()]


def vocabulary(side: Side) -> dict[str, int]:
    """The most frequent words, numbered behind padding, unknown, begin and end; 3,000 entries in all."""
    counts = Counter(word for line in side for word in line)
    return {word: index for index, (word, _) in enumerate(counts.most_common(WORDS - 4), 4)}


def numbered(side: Side, known: dict[str, int]) -> np.ndarray:
    """Begin, the words, end, padding: int64 (n, 25), cut where a sentence is longer."""
    tokens = np.full((len(side), LENGTH + 1), PAD, np.int64)
    for row, line in zip(tokens, side, strict=True):
        ids = [BEGIN, *(known.get(word, UNKNOWN) for word in line), END][: LENGTH + 1]
        row[: len(ids)] = ids
    return tokens


def arrays(german: np.ndarray, english: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The model's inputs `source` and `target`, (n, 24) each, and the token after each one, -1 for padding."""
    following = english[:, 1:]
    return {"source": german[:, 1:], "target": english[:, :-1]}, np.where(
        following == PAD, IGNORED, following
    )


def loss(model: nn.Module, batch: Batch) -> Tensor:
    source, target, y = batch
    scores = model(source, target)
    return F.cross_entropy(scores.flatten(0, 1), y.flatten(), ignore_index=IGNORED, label_smoothing=0.1)


def main() -> None:
    args = arguments("Train the German-English network and export it.", epochs=7)
    sides = [words(args.source / f"train.{language}") for language in ("de", "en")]
    known = [vocabulary(side) for side in sides]
    inputs, y = arrays(*(numbered(*pair) for pair in zip(sides, known, strict=True)))
    source, target, labels = (torch.from_numpy(a) for a in (*inputs.values(), y))
    lengths = (source != PAD).sum(1), (labels != IGNORED).sum(1)

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        """Sentences of like length together, their common padding cut off."""
        noise = torch.rand(len(source), generator=generator)
        parts = (lengths[0] + lengths[1] + noise).argsort().split(BATCH)  # type: ignore[no-untyped-call]
        for index in torch.randperm(len(parts), generator=generator).tolist():
            part = parts[index]
            s, t = (int(length[part].max()) for length in lengths)
            yield source[part, :s], target[part, :t], labels[part, :t]

    model = build()
    train(model, args.epochs, batches, loss, peak=2e-3, seed=args.seed)
    tested = [words(args.source / f"test_2016_flickr.{language}") for language in ("de", "en")]
    test, truth = arrays(*(numbered(*pair) for pair in zip(tested, known, strict=True)))
    export(model, {name: values[:2] for name, values in test.items()}, args.nets / "multi30k.onnx")
    part = chosen(len(source), CALIBRATION, args.seed)
    save(args.data, "multi30k", {name: values[part] for name, values in inputs.items()}, test, truth)
    print(f"next-token accuracy {accuracy(args.nets / 'multi30k.onnx', args.data / 'multi30k_test.npz'):.2%}")


if __name__ == "__main__":
    main()
