"""What the gates of a model that is whole are worth by gradients of its own outputs, without labels; nothing trains."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxprune import to_torch
from onnxprune.errors import PlanError
from onnxprune.gates import PREFIX
from onnxprune.methods.method import Scores
from onnxprune.methods.taylor import importance
from onnxprune.session import declared_inputs, fixed_batch
from onnxprune.training.batches import Batch, Batches
from onnxprune.training.data import Data
from onnxprune.training.distillation import Distillation, Head
from onnxprune.training.evaluate import outputs_of
from onnxprune.training.latents import Parameters
from onnxprune.training.masks import as_it_is
from onnxprune.training.tasks import Outputs

TOLD, TOLD_BATCH = 256, 32
"""Samples at most from which the kinds and variances of the outputs are told."""
SUMMED = 4
"""Of the expectation over classes so many terms, those with the steepest logits, are summed and the rest is drawn."""


def curvature(
    gated: onnx.ModelProto, sizes: Mapping[str, int], data: Data, *, batch_size: int, limit: int, seed: int
) -> dict[str, Scores]:
    """Per group, shape (size,), the mean over batches of (d probe/d b)^2, b being a gate's factor, at open gates.

    `probe` is the distillation's, so that each is an estimate of the Gauss-Newton curvature of the distance to the
    original (KL in nats at temperature 1, or squared error per variance and half of it; the mean over the outputs): a
    factor of 1 - e moves it by e^2/2 times that. Batches of one sample give each sample's own gradient; larger ones
    cost less and estimate the same, less surely, since the gradients of drawn outputs are 0 in the mean. Of a single
    output of classes, batches of one sample take the expectation over most of what is else drawn.

    At most `limit` samples; a model that prescribes a batch gets it. The same seed gives the same. Raises
    ConversionError where PyTorch cannot express the model, PlanError where the outputs have no gradient to go by.
    """
    module = to_torch.load(gated, gate_value=as_it_is).requires_grad_(False)
    known = module.state_dict(keep_vars=True)
    gates = Parameters.of(module, {n: size for n, size in sizes.items() if PREFIX + n in known})
    for tensor in gates.tensors:
        tensor.requires_grad_(True)
    batches, fixed = Batches(data, torch.device("cpu")), fixed_batch(declared_inputs(gated))
    size = fixed or batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = _task(module, batches, fixed or TOLD_BATCH)
        total, count = np.zeros(sum(map(len, gates.tensors))), 0
        for batch in batches.in_order(size, max(limit // size, 1) * size):
            total += importance(_probes(task, outputs_of(module, batch), batch), gates.tensors, shared=True)
            count += 1
    if not np.isfinite(total).all():
        raise PlanError(
            f"{data.source}: on these samples the outputs' gradients are not finite; take another criterion"
        )
    scores, found = total / max(count, 1), {name: np.zeros(size) for name, size in sizes.items()}
    for name, values in found.items():
        if PREFIX + name in known:
            values[:], scores = scores[: len(values)], scores[len(values) :]
    return found


@torch.no_grad()
def _task(module: nn.Module, batches: Batches, size: int) -> Distillation:
    found = [outputs_of(module, batch) for batch in batches.in_order(size, max(TOLD // size, 1) * size)]
    task = Distillation(tuple(Head.of(torch.cat(parts)) for parts in zip(*found, strict=True)))
    if all(head.kind == "none" for head in task.heads):
        raise PlanError(
            f"{batches.data.source}: on these samples the outputs do not vary; take another criterion"
        )
    return task


def _probes(task: Distillation, outputs: Outputs, batch: Batch) -> Iterator[Tensor]:
    """Losses of one forward pass whose squared gradients sum to the curvature on average."""
    live = [(head, output) for head, output in zip(task.heads, outputs, strict=True) if head.kind != "none"]
    head, output = live[0]
    logits = head.logits(output) if len(live) == 1 and head.kind != "values" else None
    if logits is None or len(logits) > 1:
        yield task.probe(outputs, batch)
        return
    scores = logits[0].log_softmax(0)
    likely = scores.detach().exp()
    steep = (1 - 2 * likely + likely.square().sum()).clamp_min(0)  # squared gradient of a score to the logits
    worth, order = (likely * steep).sort(descending=True)
    for k in order[:SUMMED]:
        yield scores[k] * likely[k].sqrt()
    rest = worth[SUMMED:].sum()
    if rest > 0:
        k = order[SUMMED:][torch.multinomial(worth[SUMMED:], 1)[0]]
        yield scores[k] * (rest / steep[k]).sqrt()
