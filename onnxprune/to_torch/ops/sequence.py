"""Sequences of tensors, as Python lists, and optional values, None where they are absent."""

from typing import Any

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints, Scalar, ints, number
from onnxprune.to_torch.registry import converts


@converts("SplitToSequence", since=11)
def split_to_sequence(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, keepdims: int = 1
) -> list[Tensor]:
    """By one size, the last part being what is left, or by a list of sizes; without `split`, one by one."""
    if split is None:
        return list(torch.split(x, 1, axis) if keepdims else x.unbind(axis))
    sizes = ints(split)
    return list(torch.split(x, sizes[0] if len(sizes) == 1 else sizes, axis))


@converts("SequenceConstruct", since=11)
def sequence_construct(*xs: Tensor) -> list[Tensor]:
    return list(xs)


@converts("SequenceEmpty", since=11)
def sequence_empty(*, dtype: int = 1) -> list[Tensor]:
    return []


@converts("SequenceAt", since=11)
def sequence_at(sequence: list[Tensor], position: Scalar) -> Tensor:
    return sequence[int(number(position))]


@converts("SequenceInsert", since=11)
def sequence_insert(sequence: list[Tensor], x: Tensor, position: Scalar | None = None) -> list[Tensor]:
    place = len(sequence) if position is None else int(number(position))
    return [*sequence[:place], x, *sequence[place:]]


@converts("SequenceErase", since=11)
def sequence_erase(sequence: list[Tensor], position: Scalar | None = None) -> list[Tensor]:
    place = range(len(sequence))[-1 if position is None else int(number(position))]
    return [*sequence[:place], *sequence[place + 1 :]]


@converts("SequenceLength", since=11)
def sequence_length(sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence), device=sequence[0].device if sequence else None)


@converts("ConcatFromSequence", since=11)
def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@converts("Optional", since=15)
def optional(x: Any = None, *, type: object = None) -> Any:  # noqa: A002  (the schema's name)
    return x


@converts("OptionalHasElement", since=15)
def optional_has_element(x: Any = None) -> Tensor:
    return torch.tensor(x is not None, device=x.device if isinstance(x, Tensor) else None)


@converts("OptionalGetElement", since=15)
def optional_get_element(x: Any) -> Any:
    return x


OPS = {
    "SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceAt", "SequenceInsert", "SequenceErase",
    "SequenceLength", "ConcatFromSequence", "Optional", "OptionalHasElement", "OptionalGetElement",
}  # fmt: skip
