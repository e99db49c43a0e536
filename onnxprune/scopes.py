"""A graph and the graphs inside it: the bodies of If, Loop and Scan, which read values of the graphs around them."""

from collections.abc import Iterator

import onnx_graphsurgeon as gs
from onnx import NodeProto


def bodies(node: gs.Node) -> list[gs.Graph]:
    """The graphs that a control-flow node holds."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and all bodies within, each after the graph around it."""
    waiting = [graph]
    while waiting:
        current = waiting.pop(0)
        yield current
        waiting += [body for node in current.nodes for body in bodies(node)]


def reads(node: NodeProto) -> Iterator[str]:
    """Names of all that a node reads from around it, in its bodies as well."""
    yield from node.input
    for attribute in node.attribute:
        made = {name for inner in attribute.g.node for name in inner.output}
        made.update(value.name for value in attribute.g.input)
        yield from (name for inner in attribute.g.node for name in reads(inner) if name not in made)


def tensors(graph: gs.Graph) -> dict[str, gs.Tensor]:
    """All tensors by name, outer ones first."""
    found: dict[str, gs.Tensor] = {}
    for one in graphs(graph):
        for name, tensor in one.tensors().items():
            found.setdefault(name, tensor)
    return found


def one_name_each(graph: gs.Graph) -> None:
    """Renames what bodies call by a name that is taken elsewhere: both branches of an If may use the same ones."""
    taken: dict[str, gs.Tensor] = {}
    called: set[str] = set()
    for one in graphs(graph):
        for tensor in (*one.tensors().values(), *one.inputs, *one.outputs):
            if taken.setdefault(tensor.name, tensor) is not tensor:
                tensor.name = _free(tensor.name, taken)
                taken[tensor.name] = tensor
        for node in one.nodes:
            if one is not graph and (not node.name or node.name in called):
                node.name = _free(node.name or f"{node.op}_{node.outputs[0].name}", called)
            called.add(node.name)


def _free(name: str, taken: dict[str, gs.Tensor] | set[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free
