"""Another export of the same network: other names, another order, constants kept and passed on in other ways.

    again = disguised(proto, seed=3)
    again.model, again.names["image"]
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

COPIED_FROM = 4096
"""Larger initializers are shared on purpose: to split them would be another network."""


@dataclass(frozen=True)
class Disguised:
    model: onnx.ModelProto
    names: dict[str, str]
    """New names of all tensors."""


def disguised(proto: onnx.ModelProto, seed: int) -> Disguised:
    """The same function of the same weights, in a file that no name and no position of the old one fits."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    inputs = {value.name for value in graph.input}
    _move_constants(graph, rng, inputs)
    _split_shared(graph, rng, inputs)
    _pass_on(model, rng)
    graph.node.sort(key=lambda node: order[node.output[0]]) if (order := _another_order(graph, rng)) else None
    shuffled = [graph.initializer[k] for k in rng.permutation(len(graph.initializer))]
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in shuffled]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return Disguised(model, _rename(graph, rng))


def _move_constants(graph: onnx.GraphProto, rng: np.random.Generator, inputs: set[str]) -> None:
    """From initializers to Constant nodes, and the other way round, each by chance."""
    made = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    moved = [node for node in made if rng.random() < 0.5]
    fixed = [t for t in graph.initializer if t.name not in inputs and rng.random() < 0.3]
    for node in moved:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)
    for tensor in fixed:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        graph.node.insert(0, node)
        graph.initializer.remove(tensor)


def _split_shared(graph: onnx.GraphProto, rng: np.random.Generator, inputs: set[str]) -> None:
    """Gives some readers of a small initializer one of their own."""
    for tensor in list(graph.initializer):
        readers = [(n, k) for n in graph.node for k, name in enumerate(n.input) if name == tensor.name]
        if tensor.name in inputs or not 1 < np.prod(tensor.dims) <= COPIED_FROM:
            continue
        for number, (node, k) in enumerate(readers[1:]):
            if rng.random() < 0.5:
                copy = graph.initializer.add()
                copy.CopyFrom(tensor)
                copy.name = node.input[k] = f"{tensor.name}_of_{number}"


def _pass_on(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Puts Identity nodes between, after weights as well; not into shape arithmetic, where onnxruntime loses track."""
    graph = model.graph
    apart = {value.name for value in graph.output}
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    apart |= {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.INT64}
    apart |= {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64}
    apart |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    lists = [n for n in graph.node if "Sequence" in n.op_type or any(a.HasField("g") for a in n.attribute)]
    apart |= {name for node in lists for name in node.output}  # Identity takes no lists before opset 14
    nodes = []
    for node in graph.node:
        for k, name in enumerate(node.input):
            if name and name not in apart and rng.random() < 0.1:
                passed = f"{name}_for_{len(nodes)}_{k}"
                nodes.append(helper.make_node("Identity", [name], [passed]))
                node.input[k] = passed
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _another_order(graph: onnx.GraphProto, rng: np.random.Generator) -> dict[str, int]:
    """A random topological order, as places by first output."""
    made = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    waiting = {k: {made[name] for name in _reads(node) if name in made} for k, node in enumerate(graph.node)}
    readers: dict[int, list[int]] = {}
    for number, before in waiting.items():
        for k in before:
            readers.setdefault(k, []).append(number)
    ready = [number for number, before in waiting.items() if not before]
    places: dict[str, int] = {}
    while ready:
        number = ready.pop(int(rng.integers(len(ready))))
        places[graph.node[number].output[0]] = len(places)
        for reader in readers.get(number, ()):
            waiting[reader].discard(number)
            if not waiting[reader]:
                ready.append(reader)
    return places


def _reads(node: onnx.NodeProto) -> list[str]:
    inner = [name for a in node.attribute if a.HasField("g") for n in a.g.node for name in _reads(n)]
    return [*node.input, *inner]


def _rename(graph: onnx.GraphProto, rng: np.random.Generator) -> dict[str, str]:
    names = dict.fromkeys(
        name
        for name in (
            *(value.name for value in (*graph.input, *graph.output)),
            *(tensor.name for tensor in graph.initializer),
            *(name for node in graph.node for name in (*node.input, *node.output)),
        )
        if name
    )
    numbers = rng.permutation(len(names)).tolist()
    new = {name: f"t{number}" for name, number in zip(names, numbers, strict=True)}
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for number, node in enumerate(graph.node):
        node.name = f"n{number}" if rng.random() < 0.5 else ""
        _rename_node(node, new)
    return new


def _rename_node(node: onnx.NodeProto, new: dict[str, str]) -> None:
    for side in (node.input, node.output):
        for k, name in enumerate(side):
            side[k] = new.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            _rename_node(inner, new)
        for value in attribute.g.output if attribute.HasField("g") else ():
            value.name = new.get(value.name, value.name)
