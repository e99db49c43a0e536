"""Muon for weights of matrix products, AdamW for all others, under one learning rate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from onnxprune.training.side_by_side import SideBySide

MOMENTUM = 0.9
_UPDATE = 0.2
"""Root mean square of an update at learning rate 1, as `match_rms_adamw` scales it."""


class MuonAndAdamW(Optimizer):
    """Steps of weights along their orthogonalised momentum (Jordan et al., https://kellerjordan.github.io/posts/muon;
    scaled as in arXiv 2502.16982), by PyTorch's own Muon, which takes none but matrices.

    A weight of several axes, such as a kernel (out, in, ...), is taken as the matrix (out, in * ...). A learning rate
    of 0.001 moves it at each step by 0.1 % of the root mean square that it had at the first, whatever its scale, and
    vectors as AdamW does. `threads` share the work.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        threads: SideBySide | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.threads = threads
        matrices, rest = [], []
        for group in self.param_groups:
            flat = [(weight, _rows(weight.detach(), weight)) for weight in group["params"]]
            fits = [min(m.shape) > 1 and m.data_ptr() == weight.data_ptr() for weight, m in flat]
            matrices += [_Matrix(*pair, group) for pair, yes in zip(flat, fits, strict=True) if yes]
            rest.append((group, [weight for (weight, _), yes in zip(flat, fits, strict=True) if not yes]))
        parts = 1 if threads is None else threads.parts
        self._inner: list[_Matrices | _Vectors] = [
            _Matrices(self, some) for some in (matrices[part::parts] for part in range(parts)) if some
        ]
        if any(weights for _, weights in rest):
            self._inner.append(_Vectors(self, [(group, weights) for group, weights in rest if weights]))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the weights' `grad`."""
        if self.threads is None:
            for inner in self._inner:
                inner.step()
        else:
            self.threads.map(lambda inner: inner.step(), self._inner)


@dataclass
class _Matrix:
    """A weight, itself as a matrix in the same memory, and the group that it is in."""

    weight: Tensor
    flat: Tensor
    group: dict[str, Any]
    known: tuple[Tensor | None, float] = (None, 1.0)

    def size(self, stored: Tensor) -> float:
        """The number in a tensor, which a GPU is asked for once."""
        if self.known[0] is not stored:
            self.known = stored, float(stored)
        return self.known[1]


class _Matrices:
    """Some of them; their momenta are the outer optimizer's."""

    def __init__(self, outer: Optimizer, matrices: list[_Matrix]) -> None:
        self.outer, self.matrices = outer, matrices
        self.muon: Optimizer = Muon(
            [{"params": [one.flat]} for one in matrices],
            1.0,
            momentum=MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )

    def step(self) -> None:
        for inner, one in zip(self.muon.param_groups, self.matrices, strict=True):
            one.flat.grad = None if one.weight.grad is None else _rows(one.weight.grad, one.weight)
            if one.weight.grad is None:
                continue
            state = self.outer.state[one.weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(one.weight, requires_grad=False)
                state["size"] = _size(one.flat)
            self.muon.state[one.flat]["momentum_buffer"] = _rows(state["momentum_buffer"], one.weight)
            size = one.size(state["size"])
            inner["lr"] = one.group["lr"] * size / _UPDATE
            inner["weight_decay"] = one.group["weight_decay"] * _UPDATE / size
        self.muon.step()


class _Vectors:
    """All others; what is remembered of them is the outer optimizer's."""

    def __init__(self, outer: Optimizer, groups: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        self.groups = [group for group, _ in groups]
        self.adamw: Optimizer = AdamW([{"params": weights} for _, weights in groups], 1.0)
        self.adamw.state = outer.state

    def step(self) -> None:
        for inner, group in zip(self.adamw.param_groups, self.groups, strict=True):
            inner["lr"], inner["weight_decay"] = group["lr"], group["weight_decay"]
        self.adamw.step()


def _size(flat: Tensor) -> Tensor:
    """The root mean square of a matrix, shape (); 1 where it says nothing of its own scale."""
    size = flat.square().mean().sqrt()
    return torch.where((size > 0) & size.isfinite(), size, torch.ones_like(size))


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """(out, the rest), the channels last where they are so in memory."""
    if weight.dim() < 2:
        return values.reshape(1, -1)
    return (values if weight.is_contiguous() else values.movedim(1, -1)).flatten(1)
