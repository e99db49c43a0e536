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


def distilled(
    slim: Apart,
    dense: Apart,
    samples: Data,
    held: Data,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 32,
    lr: float | None = None,
    augment: str = "crop,flip,mixup,cutmix",
    names: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """New values of float32 initializers of `slim` (of those of `names`, where given), by name, with which it computes
    more nearly what `dense` computes.

    Only those that changed, for `Apart.put`; shapes and types stay. Both models have the same inputs and outputs, those
    of `samples`, which are learned from, and of `held`, which tell what helps; no label is looked at. Images are moved
    and mixed with one another as `augment` says (names as for `onnxprune train`), and both models see the same; other
    inputs are taken as they are. The learning rate `lr` None is the highest of those that in a tenth of the time gain a
    third of what the best of them gains on `held`: in all of it the higher one goes further. BatchNorm keeps its
    statistics. The same seed and number of threads give the same bytes.

    Empty, with a warning in the log, where `held`, mixed likewise, then lies no nearer to `dense`: as it is it would
    say too little, a network often knows by heart what it was trained on. Raises ConversionError where PyTorch cannot
    express a model, TrainingError where `augment` asks for what the samples cannot take, or torchvision is not
    installed.

    The defaults come from ResNet-20 with 1,024 images, single runs judged by KL: at half of its MACs more than half of
    the gain is lost without mixing, or by mixup alone, and batches of 64 came less near than batches of 32; at 0.7 the
    rate that serves at half drives it away, as it does ResNet-56 at half.
    """
    from onnxprune.training.teaching import Recipe, taught

    size = fixed_batch(declared_inputs(slim.light)) or batch_size
    recipe = Recipe(epochs, seed, size, lr, augment, None if names is None else frozenset(names))
    samples, held = (replace(data, labels=None) for data in (samples, held))
    return taught(slim.whole(), dense.whole(), samples, held, recipe)
