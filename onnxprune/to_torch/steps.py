"""Each ONNX node with the converter that stands for it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxprune.errors import ConversionError
from onnxprune.to_torch.bodies import reads
from onnxprune.to_torch.operands import DTYPES, Form
from onnxprune.to_torch.ops.unsigned import WIDE_UNSIGNED
from onnxprune.to_torch.registry import Converter, find


@dataclass(frozen=True)
class Step:
    """An ONNX node with its converter; `outputs` are those up to the last that is read."""

    node: onnx.NodeProto
    converter: Converter
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    bodies: Mapping[str, "Plan"] = field(default_factory=dict)
    """Those of a control-flow node, by attribute."""

    @property
    def name(self) -> str:
        return self.node.name or self.node.output[0]

    def forms(self) -> tuple[Form, ...]:
        return self.converter.forms(len(self.node.input))

    def reads(self) -> Iterator[tuple[str, Form]]:
        """What the node and its bodies read, and how."""
        yield from zip(self.node.input, self.forms(), strict=True)
        for body in self.bodies.values():
            yield from body.reads()

    def captured(self) -> list[str]:
        """What its bodies read from around the node, each name once."""
        names = (name for body in self.bodies.values() for name, _ in body.reads())
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Plan:
    """A graph with its nodes' converters and the types of its values, those around it included."""

    graph: onnx.GraphProto
    steps: list[Step]
    types: Mapping[str, onnx.TypeProto]

    def reads(self) -> Iterator[tuple[str, Form]]:
        """What it reads from around it, and how."""
        made = {value.name for value in self.graph.input}
        made.update(name for step in self.steps for name in step.node.output)
        for step in self.steps:
            yield from ((name, form) for name, form in step.reads() if name and name not in made)
        yield from ((value.name, Form.TENSOR) for value in self.graph.output if value.name not in made)


def plan(model: onnx.ModelProto) -> Plan:
    """Every node of a model after shape inference with its converter.

    One ConversionError names all nodes that have none.
    """
    planner = _Planner({"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import})
    made = planner.graph(model.graph, {})
    if planner.offending:
        raise ConversionError(
            f"{len(planner.offending)} nodes cannot be expressed in PyTorch: {', '.join(planner.offending)}; "
            "replace them in the model, or register converters with to_torch.registry.converts"
        )
    return made


class _Planner:
    def __init__(self, opsets: Mapping[str, int]) -> None:
        self.opsets = opsets
        self.offending: list[str] = []

    def graph(self, graph: onnx.GraphProto, around: Mapping[str, onnx.TypeProto]) -> Plan:
        types = {**around, **types_of(graph)}
        read = {name for node in graph.node for name in reads(node)} | {
            output.name for output in graph.output
        }
        steps = [self._step(node, read, types) for node in graph.node]
        return Plan(graph, [step for step in steps if step], types)

    def _step(self, node: onnx.NodeProto, read: set[str], types: Mapping[str, onnx.TypeProto]) -> Step | None:
        outputs = tuple(node.output)
        while len(outputs) > 1 and outputs[-1] not in read:
            outputs = outputs[:-1]
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = self.opsets.get(domain, 1)
        converter = find(domain, node.op_type, opset)
        if not domain and _wide_unsigned(node, types):
            converter = find(WIDE_UNSIGNED, node.op_type, opset) or converter
        attributes = {a.name: _attribute(a) for a in node.attribute if a.name not in _WITHOUT_MEANING}
        reason: str | None = "no converter"
        if converter is not None:
            given = [bool(name) for name in node.input]
            reason = _untyped(node, read, types) or converter.misfit(given, attributes, len(outputs))
        bodies = {n: self.graph(v, types) for n, v in attributes.items() if isinstance(v, onnx.GraphProto)}
        if reason is None and converter is not None:
            plain = {n: v for n, v in attributes.items() if n not in bodies}
            return Step(node, converter, outputs, plain, bodies)
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        self.offending.append(f"{node.name or node.output[0]!r} ({op}-{opset}: {reason})")
        return None


def types_of(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """The types that a graph states of its own values."""
    types = {v.name: v.type for v in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types


def _untyped(node: onnx.NodeProto, read: Collection[str], types: Mapping[str, onnx.TypeProto]) -> str | None:
    """Why PyTorch cannot hold or compute the node's values, as far as they are read."""
    for name in (*node.input, *(output for output in node.output if output in read)):
        value = types.get(name, onnx.TypeProto())
        while (kind := value.WhichOneof("value")) in ("sequence_type", "optional_type"):
            value = getattr(value, kind).elem_type
        if kind not in ("tensor_type", None):
            return f"{name!r} is not a tensor"
        code = value.tensor_type.elem_type
        if code and code not in DTYPES:
            return f"PyTorch has no element type {onnx.TensorProto.DataType.Name(code)}"
    return None


def _wide_unsigned(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> bool:
    codes = {types.get(name, onnx.TypeProto()).tensor_type.elem_type for name in (*node.input, *node.output)}
    return not codes.isdisjoint(_WIDE_UNSIGNED)


_WIDE_UNSIGNED = (onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64)
_WITHOUT_MEANING = {"consumed_inputs"}  # before opset 6: which inputs an engine may overwrite


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value
