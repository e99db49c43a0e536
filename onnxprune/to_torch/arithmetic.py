"""Which nodes compute sizes: those that descend from Shape and make integers, booleans or float32 of rank 0 or 1.

They become rules of sizes.py, on Python numbers, in the fx graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch

from onnxprune.to_torch import sizes
from onnxprune.to_torch.operands import to_tensor
from onnxprune.to_torch.steps import Step
from onnxprune.to_torch.values import Constant, Sizes, Value

Types = Mapping[str, onnx.TypeProto]
_SIZE_TYPES = tuple(onnx.TensorProto.DataType.Value(t) for t in ("INT64", "INT32", "BOOL", "FLOAT"))


def rank(name: str, types: Types) -> int | None:
    """The rank of a value, None where it is not known."""
    kind = types.get(name, onnx.TypeProto()).tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


def known_size(source: str | None, index: Value | None, types: Types) -> Constant | None:
    """One size out of the Shape of `source`, if the file fixes it; axis 0 stays open, to train with other batches."""
    if not source or not isinstance(index, Constant) or index.tensor.numel() != 1:
        return None
    dims = types.get(source, onnx.TypeProto()).tensor_type.shape.dim
    place = int(index.tensor.item())
    place = place + len(dims) if place < 0 else place
    if not 0 < place < len(dims) or not dims[place].HasField("dim_value"):
        return None
    return Constant(torch.full_like(index.tensor, dims[place].dim_value, dtype=torch.int64))


def rule_of(step: Step, inputs: Sequence[Value | None], types: Types) -> Callable[..., Any] | None:
    """The rule that stands for the node, if it computes sizes."""
    made = types.get(step.node.output[0], onnx.TypeProto()).tensor_type
    rules = sizes.FRACTIONS if made.elem_type == onnx.TensorProto.FLOAT else sizes.RULES
    rule = rules.get(step.node.op_type)
    if rule is None or step.converter.domain or len(step.outputs) > 1:
        return None
    ranks = [
        rank(step.node.output[0], types),
        *(rank(n, types) for n, v in zip(step.node.input, inputs, strict=True) if isinstance(v, Sizes)),
    ]
    highest = max(99 if r is None else r for r in ranks)
    if made.elem_type not in _SIZE_TYPES or highest > (2 if step.node.op_type in sizes.TABLE_OPS else 1):
        return None
    if highest == 2 and step.node.op_type == "Slice" and not _along_rows(inputs):
        return None
    if step.node.op_type in ("Shape", "Size"):
        return rule
    if (
        step.node.op_type in ("Gather", "Slice")
        and rules is sizes.FRACTIONS
        and not isinstance(inputs[0], Sizes)
    ):
        return None  # a table of floats, of which a size says only where to read
    known = all(v is None or isinstance(v, Sizes) or _listable(v) for v in inputs)
    return rule if known and any(isinstance(v, Sizes) for v in inputs) else None


def keywords(step: Step) -> dict[str, Any]:
    """The node's attributes for its rule: numbers, no tensors."""
    return {
        name: to_tensor(value).item() if isinstance(value, onnx.TensorProto) else value
        for name, value in step.attributes.items()
    }


def _listable(value: Value | None) -> bool:
    """Floats only of few binary digits: with them a size that is traced as a symbol is as exact as float32."""
    if not isinstance(value, Constant) or value.tensor.dim() > 1:
        return False
    return not value.tensor.is_floating_point() or bool((value.tensor * 1024 % 1 == 0).all())


def listed(value: Constant) -> Any:
    """A number or a list of them, whole ones as integers."""
    numbers = value.tensor.tolist()
    whole = value.tensor.is_floating_point() and bool((value.tensor % 1 == 0).all())
    if not whole:
        return numbers
    return [int(v) for v in numbers] if isinstance(numbers, list) else int(numbers)


def _along_rows(inputs: Sequence[Value | None]) -> bool:
    """Whether a Slice is of the first axis alone."""
    axes = inputs[3] if len(inputs) > 3 else None
    return isinstance(axes, Constant) and axes.tensor.reshape(-1).tolist() == [0]
