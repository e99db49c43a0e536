"""The bodies of If, Loop and Scan: their initializers join those of the main graph, by names of their own.

There training finds them like any other, and `write_back` knows by the same names where they belong.
"""

from collections.abc import Iterator

import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a control-flow node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all bodies within, each after the graph around it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """All initializers by name; a body's whose name is taken, as both branches of an If may have it, by another."""
    found: dict[str, onnx.TensorProto] = {}
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            found[_free(tensor.name, found)] = tensor
    return found


def hoist(model: onnx.ModelProto) -> None:
    """Moves the bodies' initializers into the main graph, in place, by the names of `initializers`."""
    names = iter(initializers(model))
    moved = []
    for graph in graphs(model.graph):
        renamed = {tensor.name: next(names) for tensor in graph.initializer}
        if graph is model.graph or not renamed:
            continue
        for tensor in graph.initializer:
            moved.append(onnx.TensorProto())
            moved[-1].CopyFrom(tensor)
            moved[-1].name = renamed[tensor.name]
        for place in reversed([i for i, value in enumerate(graph.input) if value.name in renamed]):
            del graph.input[place]
        del graph.initializer[:]
        _rename(graph, renamed)
    model.graph.initializer.extend(moved)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Other names for what a body and those within it read."""
    if not (names := {old: new for old, new in names.items() if old != new}):
        return
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        for body in bodies(node):
            own = _made(body)
            _rename(body, {old: new for old, new in names.items() if old not in own})
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of all that a node reads, its bodies included; what a body makes itself is not read."""
    yield from node.input
    for body in bodies(node):
        made = _made(body)
        within = (name for inner in body.node for name in reads(inner))
        yield from (name for name in (*within, *(v.name for v in body.output)) if name not in made)


def _made(body: onnx.GraphProto) -> set[str]:
    names = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    return names.union(*(node.output for node in body.node))


def _free(name: str, taken: dict[str, onnx.TensorProto]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free
