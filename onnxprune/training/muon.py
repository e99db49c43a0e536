"""Muon for weights of matrix products, AdamW for all others, under one learning rate."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from onnxprune.training.side_by_side import SideBySide

MOMENTUM = 0.9
_UPDATE = 0.2
"""Root mean square of an update at learning rate 1, as `match_rms_adamw` scales it."""


class MuonAndAdamW:
    """Steps of weights along their orthogonalised momentum (Jordan et al., https://kellerjordan.github.io/posts/muon;
    scaled as in arXiv 2502.16982), by PyTorch's own Muon, which takes none but matrices.

    A weight of several axes, such as a kernel (out, in, ...), is taken as the matrix (out, in * ...). A learning rate
    of 0.001 moves it at each step by 0.1 % of its root mean square, whatever its scale, and vectors as AdamW does.
    """

    def __init__(self, weights: Sequence[Tensor], threads: SideBySide) -> None:
        self.threads = threads
        self.matrices: list[tuple[Tensor, Tensor]] = []
        """Weights, and each as a matrix in the same memory."""
        groups, rest = [], []
        for weight in weights:
            flat = _rows(weight.detach(), weight)
            size = _size(flat) if flat.data_ptr() == weight.data_ptr() else 0.0
            if size:
                self.matrices.append((weight, flat.requires_grad_()))
                groups.append({"params": [flat], "scale": size / _UPDATE})
            else:
                rest.append(weight)
        self.optimizers: list[Optimizer] = [
            Muon(some, 1.0, weight_decay=0.0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
            for some in (groups[part :: threads.parts] for part in range(threads.parts))
            if some
        ]
        if rest:
            self.optimizers.append(AdamW([{"params": rest, "scale": 1.0}], 1.0, weight_decay=0.0))

    def step(self, lr: float) -> None:
        """One step along the weights' `grad`."""
        for weight, flat in self.matrices:
            flat.grad = None if weight.grad is None else _rows(weight.grad, weight)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
        self.threads.map(lambda optimizer: optimizer.step(), self.optimizers)


def _size(flat: Tensor) -> float:
    """The root mean square of a matrix; 0 of what is none, or says nothing of its own scale."""
    if min(flat.shape) < 2:
        return 0.0
    size = float(flat.square().mean().sqrt())
    return size if 0 < size < float("inf") else 0.0


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """(out, the rest), the channels last where they are so in memory."""
    if weight.dim() < 2:
        return values.reshape(1, -1)
    return (values if weight.is_contiguous() else values.movedim(1, -1)).flatten(1)
