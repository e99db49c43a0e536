"""Constants that are weights: floats, and whole numbers that an op reads as `scale * (entry - zero_point)`."""

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
    """What a value is dequantised from; itself where it is not."""
    made_by = tensor.inputs[0] if tensor.inputs else None
    return made_by.inputs[0] if made_by is not None and made_by.op == "DequantizeLinear" else tensor


def real(tensor: gs.Constant) -> np.ndarray | None:
    """The weight's entries as floats, in its shape; None where it is no weight."""
    values = array(tensor)
    if is_float(tensor):
        return values
    found = _reader(tensor)
    if found is None:
        return None
    node, operand, axis = found
    zero, scale = (_parameter(node, slot, values.shape, axis) for slot in (operand.zero, operand.scale))
    whole = values.astype(np.float32)
    whole = whole if zero is None else whole - zero
    return whole if scale is None else whole * scale


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
