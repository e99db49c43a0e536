"""Constants that are weights: floats, and whole numbers that an op reads as `scale * (entry - zero_point)`."""

from collections.abc import Iterator
from math import prod
from types import EllipsisType

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from onnxprune.model import array
from onnxprune.quantized import MICROSOFT, Operand, quantised

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def is_weight(tensor: gs.Constant) -> bool:
    """Whether its entries are parameters, not sizes, indices or zero points."""
    return is_float(tensor) or _reader(tensor) is not None


def is_float(tensor: gs.Constant) -> bool:
    return dtype_to_onnx(tensor.dtype) in FLOATS


def stored(tensor: gs.Tensor) -> gs.Tensor:
    """What a value is dequantised from, and quantised before that; itself where it is not."""
    while tensor.inputs and tensor.inputs[0].op in ("DequantizeLinear", "QuantizeLinear"):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def real(tensor: gs.Constant) -> np.ndarray | None:
    """The weight's entries as floats, in its shape; None where it is no weight."""
    parts = blocks(tensor, np.iinfo(np.int64).max)
    return None if parts is None else next(parts)


BLOCK = 1 << 18
"""Entries of a weight that are worked on at a time: so many stay in the processor's cache."""


def blocks(tensor: gs.Constant, most: int = BLOCK) -> Iterator[np.ndarray] | None:
    """`real` in parts along the first axis, of about `most` entries, so that no whole copy is made."""
    values = array(tensor)
    if is_float(tensor):
        return (values[rows] for rows in _rows(values.shape, most))
    found = _reader(tensor)
    if found is None:
        return None
    node, operand, axis = found
    zero, scale = (_parameter(node, slot, values.shape, axis) for slot in (operand.zero, operand.scale))
    return (_dequantised(values, zero, scale, rows) for rows in _rows(values.shape, most))


Rows = slice | EllipsisType


def _rows(shape: tuple[int, ...], most: int) -> Iterator[Rows]:
    """At least one, which holds all of what has no axes."""
    if not shape:
        return iter([...])
    length = max(shape[0], 1)
    step = min(max(most // max(prod(shape[1:]), 1), 1), length)
    return (slice(start, start + step) for start in range(0, length, step))


def _dequantised(
    values: np.ndarray, zero: np.ndarray | None, scale: np.ndarray | None, rows: Rows
) -> np.ndarray:
    whole = values[rows].astype(np.float32)
    if zero is not None:
        whole -= zero[rows] if zero.ndim and len(zero) > 1 else zero
    if scale is not None:
        whole *= scale[rows] if scale.ndim and len(scale) > 1 else scale
    return whole


Found = tuple[gs.Node, Operand, int]


def _reader(tensor: gs.Constant) -> Found | None:
    """A node that reads it as quantised numbers, as which operand, and the axis that its scales lie on."""
    rank = len(tensor.shape)
    for node in tensor.outputs:
        domain = "" if node.domain in (None, "ai.onnx") else node.domain
        if node.op == "DequantizeLinear" and domain in ("", MICROSOFT) and node.inputs[0] is tensor:
            return node, Operand(0, 1, 2), node.attrs.get("axis", 1) % max(rank, 1)
        form = quantised(domain, node.op, len(node.inputs))
        if form is None:
            continue
        if form.bias is not None and form.bias < len(node.inputs) and node.inputs[form.bias] is tensor:
            return node, Operand(form.bias), 0
        for operand in form.operands:
            if node.inputs[operand.at] is tensor and (operand.zero is not None or operand.scale is not None):
                return node, operand, form.axis(rank, bool(node.attrs.get("transB", 0)))
    return None


def _parameter(node: gs.Node, slot: int | None, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """A scale or zero point, broadcast to a weight of this shape."""
    tensor = node.inputs[slot] if slot is not None and slot < len(node.inputs) else None
    if not isinstance(tensor, gs.Constant):
        return None
    values = array(tensor).astype(np.float32)
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    repeated = np.repeat(values, node.attrs.get("block_size", 1), axis=axis)
    return repeated.take(range(shape[axis]), axis=axis)
