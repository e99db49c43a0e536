"""A pruned model's weights brought back to the original's outputs by a short training on unlabelled samples.

slim.put(distilled(slim, dense, samples, held, epochs=20, seed=0))

Importing this does not import torch, `distilled` does.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from onnxprune.apart import Apart
from onnxprune.session import declared_inputs, fixed_batch
from onnxprune.training.samples import Data

BATCH = 32
STEPS = 1500
"""Where as many are left, a batch is twice as large: a sample then takes a quarter less time on a CPU."""


def distilled(
    slim: Apart,
    dense: Apart,
    samples: Data,
    held: Data,
    *,
    epochs: int,
    seed: int,
    batch_size: int | None = None,
    lr: float = 1e-3,
    augment: str = "crop,flip,mixup,cutmix",
    names: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """New values of float32 initializers of `slim` (of those of `names`, where given), by name, with which it computes
    more nearly what `dense` computes.

    Only those that changed, for `Apart.put`; shapes and types stay. Both models have the same inputs and outputs, those
    of `samples`, which are learned from, and of `held`, which tell what helps; no label is looked at. Images are moved
    and mixed with one another as `augment` says (names as for `onnxprune train`), and both models see the same; other
    inputs are taken as they are. Each step moves a weight of several axes by `lr` of its root mean square (Muon), and
    others as AdamW does. A batch has 32 samples, or 64 where that leaves 1,500 steps. BatchNorm keeps its statistics.
    The same seed and number of threads give the same bytes.

    Empty, with a warning in the log, where `held`, mixed likewise, then lies no nearer to `dense`: as it is it would
    say too little, a network often knows by heart what it was trained on. Raises ConversionError where PyTorch cannot
    express a model, TrainingError where `augment` asks for what the samples cannot take, or torchvision is not
    installed.
    """
    from onnxprune.training.teaching import Recipe, taught

    fixed = fixed_batch(declared_inputs(slim.light))
    trained = None if names is None else frozenset(names)
    size = fixed or batch_size or _batch_size(len(samples) * epochs)
    recipe = Recipe(epochs, seed, size, lr, augment, trained, divided=fixed is None)
    samples, held = (replace(data, labels=None) for data in (samples, held))
    return taught(slim.whole(), dense.whole(), samples, held, recipe)


def _batch_size(samples: int) -> int:
    """For so many samples, each counted as often as it is learned from."""
    return 2 * BATCH if samples >= 2 * BATCH * STEPS else BATCH
