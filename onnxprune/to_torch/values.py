"""What a value of the graph is while the importer builds the module."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from onnxprune.to_torch.operands import TRAINABLE, Form, is_finite


@dataclass(frozen=True)
class Constant:
    """A value known now that training leaves alone; `path` is set where it is an initializer."""

    tensor: Tensor
    path: str | None = None


@dataclass(frozen=True)
class Sizes:
    """A value of rank 0 or 1 that the fx graph computes as Python numbers (see sizes.py)."""

    node: fx.Node
    dtype: torch.dtype


Value: TypeAlias = fx.Node | Constant | Sizes


def as_number(tensor: Tensor, form: Form) -> Any:
    """A constant as the Python number or list that `form` asks for; the tensor where it asks for that."""
    if form is Form.INDEX:
        return tensor.item() if tensor.dim() == 0 else tensor
    if form in (Form.INTS, Form.FLOATS):
        return tensor.reshape(-1).tolist()
    return tensor.item() if form is Form.SCALAR else tensor


def is_weight(tensor: Tensor) -> bool:
    """Whether training may change an initializer.

    Rank 0 is how exporters write the numbers of a formula (the divisor sqrt(d), an epsilon), and a tensor
    with infinities is a mask; neither is a weight.
    """
    return tensor.dtype in TRAINABLE and tensor.dim() > 0 and is_finite(tensor)


def is_factor(name: str, tensor: Tensor, readers: Collection[str]) -> bool:
    """Whether an initializer of one entry is a number of a formula too, such as the scale of an attention.

    PyTorch's exporter calls what is no parameter of the network `val_7`.
    """
    return (
        tensor.numel() == 1 and re.fullmatch(r"val_\d+", name) is not None and set(readers) <= {"Mul", "Div"}
    )
