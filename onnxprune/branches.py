"""Branches that can go altogether: a residual goes past them, so with all channels closed they add a constant.

With no channel open, the op that sums them away puts out its bias, the same at every position. Where that reaches a sum
with the residual through nothing but ops that treat every entry alike, the constant takes the branch's place.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.groups import Groups
from onnxprune.model import array
from onnxprune.ops import Node
from onnxprune.ops.elementwise import BROADCASTING, UNARY
from onnxprune.prepare import fold_weights

ALIKE = {*UNARY, *BROADCASTING, "BatchNormalization", "Transpose"}
"""Ops that make of a constant of one entry per position one that broadcasts as before."""
SUMS = {"Add", "Sub", "Sum"}
BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": None}
"""Ops that may be left without input channels, and which operand they then put out."""


def droppable(groups: Groups) -> frozenset[str]:
    """Groups that may be left without channels."""
    found = []
    for group in groups:
        removed = groups.removed({group.name: np.zeros(0, dtype=np.int64)})
        if _may_go(groups, removed):
            found.append(group.name)
    return frozenset(found)


def emptied(groups: Groups, removed: np.ndarray) -> Iterator[int]:
    """Numbers of the nodes that would sum over nothing."""
    for number, links in enumerate(groups.links):
        for at in links.summed if links is not None else ():
            labels = groups.place(number, at)
            if labels is not None and removed[groups.atoms.of[labels]].all():
                yield number
                break


def dead(groups: Groups, removed: np.ndarray) -> set[int]:
    """Numbers of the nodes that go with the branches."""
    ends = set(emptied(groups, removed))
    return set(range(len(groups.nodes))) - _live(groups, ends) if ends else set()


def _may_go(groups: Groups, removed: np.ndarray) -> bool:
    """Whether, with these atoms gone, only branches are left without entries."""
    ends = set(emptied(groups, removed))
    if not ends or not all(_reaches_a_sum(groups, groups.nodes[number]) for number in ends):
        return False
    live = _live(groups, ends)
    return not any(
        labels is not None and removed[groups.atoms.of[labels]].all()
        for number in live - ends
        for value in (*groups.nodes[number].inputs, *groups.nodes[number].outputs)
        if value is not None
        for labels in groups.labels[value.name]
    )


def _live(groups: Groups, cut: Iterable[int]) -> set[int]:
    """Numbers of the nodes that something reads when those in `cut` read nothing."""
    maker = {value.name: k for k, node in enumerate(groups.nodes) for value in node.outputs if value}
    waiting = [maker[tensor.name] for tensor in groups.model.graph.outputs if tensor.name in maker]
    live: set[int] = set()
    stops = set(cut)
    while waiting:
        number = waiting.pop()
        if number in live:
            continue
        live.add(number)
        if number not in stops:
            read = (value.name for value in groups.nodes[number].inputs if value)
            waiting += [maker[name] for name in read if name in maker]
    return live


def _reaches_a_sum(groups: Groups, end: Node) -> bool:
    """Whether what the node makes meets a residual of the full shape, through ops that treat every entry alike."""
    if end.op not in BIAS or end.domain or end.graph is not groups.model.graph:
        return False
    if end.attr("beta", 1.0) != 1.0 or end.attr("group", 1) != 1 or len(end.shape(1)) < 2:
        return False
    if not all(isinstance(tensor, gs.Constant) for tensor in end.raw.inputs[1:]):
        return False
    outputs = {id(tensor) for tensor in groups.model.graph.outputs}
    waiting, seen = [end.raw.outputs[0]], set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in outputs or not tensor.outputs:
            return False
        for reader in {id(r): r for r in tensor.outputs}.values():
            others = [t for t in reader.inputs if t is not tensor and isinstance(t, gs.Variable) and t.name]
            if others and not _is_sum_with(groups, reader, others):
                return False
            if not others and id(reader) not in seen:
                if (
                    reader.op not in ALIKE
                    or reader.domain not in (None, "", "ai.onnx")
                    or len(reader.outputs) > 1
                ):
                    return False
                seen.add(id(reader))
                waiting.append(reader.outputs[0])
    return True


def _is_sum_with(groups: Groups, reader: gs.Node, others: list[gs.Tensor]) -> bool:
    """Whether one of the other operands has the sum's own shape."""
    sizes = groups.shapes.sizes
    whole = sizes.get(reader.outputs[0].name)
    return reader.op in SUMS and whole is not None and any(sizes.get(t.name) == whole for t in others)


def drop(groups: Groups, removed: np.ndarray) -> None:
    """Puts constants in the place of branches that are left without channels, in place; weights are sliced already."""
    graph = groups.model.graph
    ends = [groups.nodes[number] for number in emptied(groups, removed)]
    for node in ends:
        out = node.raw.outputs[0]
        value = _constant(node)
        node.raw.inputs.clear()
        node.raw.outputs.clear()
        out.to_constant(value)
    if ends:
        graph.nodes = [node for node in graph.nodes if node.outputs]
        fold_weights(graph)


def _constant(node: Node) -> np.ndarray:
    """What the node puts out when it sums over nothing: of one entry on every axis but the channels'."""
    rank, bias = len(node.out_shape()), BIAS[node.op]
    weight = node.raw.inputs[1]
    if bias is not None and node.has(bias):
        data = array(node.raw.inputs[bias])
    else:
        channels = (
            0 if node.op == "Conv" or node.attr("transB", 0) else -1 if node.op in ("Gemm", "MatMul") else 1
        )
        data = np.zeros(weight.shape[channels], dtype=np.dtype(weight.dtype))
    if node.op in ("Conv", "ConvTranspose"):
        return data.reshape((1, -1) + (1,) * (rank - 2))
    return data.reshape((1,) * (rank - data.ndim) + data.shape)
