"""One process or many: Accelerate's view of them, and means over all of them."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.settings import Settings

PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def accelerator_for(settings: Settings) -> Accelerator:
    """The Accelerator of a run; under `accelerate launch` or `torchrun` one of many."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for, but PyTorch sees no GPU: use device auto or cpu")
    alone = AcceleratorState._shared_state.get("num_processes", 1) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)  # an earlier run may have used another precision
    return Accelerator(cpu=settings.device == "cpu", mixed_precision=PRECISIONS[settings.precision])


def average(accelerator: Accelerator, tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by their mean over all processes, in one transfer per element type."""
    if accelerator.num_processes == 1:
        return
    for dtype in {tensor.dtype for tensor in tensors if tensor.is_floating_point()}:
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = accelerator.reduce(torch.cat([tensor.detach().flatten() for tensor in same]), "mean")
        with torch.no_grad():
            for tensor, mean in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
                tensor.copy_(mean.view(tensor.shape))
