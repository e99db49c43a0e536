"""Where a model decides: whole numbers and truth values that follow from real ones, as of TopK, NonMaxSuppression, `>`.

A sum in another order moves the last bit, which turns a tie the other way, and a detector answers with other boxes. So
whether two models that decide compute the same function is seen on what they compute once both are given the decisions
of the first one, and on what each decision follows from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from onnxprune.scopes import reads
from onnxprune.shapes.foreign import taught

STEPS = {"Ceil", "Floor", "Hardmax", "Round", "Sign"}
"""Ops that decide and write it as real numbers."""
MEASURES = {"Shape", "Size"}
"""Ops whose results follow from sizes, not from numbers."""
REAL = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True)
class Decision:
    """One node that decides: which of its outputs are decisions, and the real numbers that they follow from."""

    outputs: tuple[str, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Decisions:
    """All decisions of a model outside of bodies, in graph order, and the element types of its values."""

    made: tuple[Decision, ...]
    types: dict[str, int]


def decisions(model: ModelProto) -> Decisions:
    """Finds them. Values of unknown type count as real numbers."""
    types = _types(model)
    fixed = {tensor.name for tensor in model.graph.initializer}
    follows = {value.name for value in model.graph.input} - fixed
    made = []

    def is_real(name: str) -> bool:
        return types.get(name, TensorProto.FLOAT) in REAL

    for node in model.graph.node:
        read = [name for name in dict.fromkeys(reads(node)) if name in follows]
        if not read or (node.op_type in MEASURES and not node.domain):
            continue
        follows.update(node.output)
        real = tuple(name for name in read if is_real(name))
        steps = node.op_type in STEPS and not node.domain
        outputs = tuple(name for name in node.output if name and (steps or not is_real(name)))
        if real and outputs:
            made.append(Decision(outputs, real))
    return Decisions(tuple(made), types)


def pairs(first: Decisions, second: Decisions) -> list[tuple[Decision, Decision]]:
    """The decisions that two models make alike, by the names of their outputs."""
    others = {decision.outputs: decision for decision in second.made}
    found = [(one, others[one.outputs]) for one in first.made if one.outputs in others]
    return [(one, other) for one, other in found if len(one.reads) == len(other.reads)]


def telling(model: ModelProto, made: Iterable[Decision], types: Mapping[str, int]) -> ModelProto:
    """A copy that has, behind its outputs, these decisions and what they follow from as outputs."""
    copy = _copy(model)
    told = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    for name in dict.fromkeys(name for one in made for name in (*one.outputs, *one.reads)):
        if name not in told:
            copy.graph.output.append(_info(name, types))
    return copy


def given(model: ModelProto, names: Mapping[str, int], types: Mapping[str, int]) -> ModelProto:
    """A copy that is given these values as inputs, instead of making them; `names` with how many axes each has."""
    copy = _copy(model)
    nodes = []
    for node in copy.graph.node:
        if any(name and name not in names for name in node.output):
            node.output[:] = [f"{name}/own" if name in names else name for name in node.output]
            nodes.append(node)
    outputs = [value for value in copy.graph.output if value.name not in names]
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend(nodes)
    copy.graph.output.extend(outputs)
    copy.graph.input.extend(_info(name, types, rank) for name, rank in names.items())
    return copy


def _info(name: str, types: Mapping[str, int], rank: int | None = None) -> ValueInfoProto:
    shape = None if rank is None else [None] * rank
    return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # sizes and types of values that are not what they were
    return copy


def _types(model: ModelProto) -> dict[str, int]:
    with taught(model):
        graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: kind for name, kind in types.items() if kind}
