"""Each ONNX node with the converter that stands for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from onnxprune.errors import ConversionError
from onnxprune.to_torch import sequence
from onnxprune.to_torch.operands import DTYPES, Form
from onnxprune.to_torch.registry import Converter, find


@dataclass(frozen=True)
class Step:
    """An ONNX node with its converter; `outputs` are those up to the last that is read."""

    node: onnx.NodeProto
    converter: Converter
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.node.name or self.node.output[0]

    def forms(self) -> tuple[Form, ...]:
        return self.converter.forms(len(self.node.input))


def plan(
    graph: onnx.GraphProto, opsets: Mapping[str, int], types: Mapping[str, onnx.TypeProto]
) -> list[Step]:
    """Every node with its converter; one ConversionError names all nodes that have none."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    ends = {value.name for value in (*graph.input, *graph.output)}
    steps, offending = [], []
    for node in graph.node:
        outputs = tuple(node.output)
        while len(outputs) > 1 and outputs[-1] not in read:
            outputs = outputs[:-1]
        domain = "" if node.domain == "ai.onnx" else node.domain
        converter = find(domain, node.op_type, opsets.get(domain, 1))
        attributes = {a.name: _attribute(a) for a in node.attribute}
        if converter is None:
            reason: str | None = "no converter"
        else:
            given = [bool(name) for name in node.input]
            reason = _untyped(node, types, ends) or converter.misfit(given, set(attributes), len(outputs))
        if reason or converter is None:
            op = f"{domain}.{node.op_type}" if domain else node.op_type
            offending.append(f"{node.name or node.output[0]!r} ({op}-{opsets.get(domain, 1)}: {reason})")
        else:
            steps.append(Step(node, converter, outputs, attributes))
    if offending:
        raise ConversionError(
            f"{len(offending)} nodes cannot be expressed in PyTorch: {', '.join(offending)}; "
            "replace them in the model, or register converters with to_torch.registry.converts"
        )
    return steps


def _untyped(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], ends: Collection[str]) -> str | None:
    """Why PyTorch cannot hold or compute the node's values."""
    for name in (*node.input, *node.output):
        value = types.get(name, onnx.TypeProto())
        kind = value.WhichOneof("value")
        listed = kind == "sequence_type" and node.op_type in {*sequence.OPS, "Identity"}
        if kind not in ("tensor_type", None) and (name in ends or not listed):
            return f"{name!r} is not a tensor"
        code = value.tensor_type.elem_type
        if code and code not in DTYPES:
            return f"PyTorch has no element type {onnx.TensorProto.DataType.Name(code)}"
        if code in _WIDE_UNSIGNED and node.op_type in _NOT_ON_WIDE_UNSIGNED:
            return f"PyTorch does not compute on {onnx.TensorProto.DataType.Name(code)}"
    return None


_WIDE_UNSIGNED = (onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64)
_NOT_ON_WIDE_UNSIGNED = {
    "Add", "Sub", "Div", "Mod", "BitwiseNot", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
}  # fmt: skip


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value
