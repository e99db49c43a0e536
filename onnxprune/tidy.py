"""Nodes in order, and only those that something reads.

In place of onnx-graphsurgeon's own two passes, which recurse per node and per local function.
"""

import heapq

import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError


def tidy(graph: gs.Graph) -> None:
    """Sorts the nodes by dependence, keeping their order where it is free, and drops those that nothing reads."""
    wanted = {tensor.name for tensor in graph.outputs}
    reads = {id(node): _reads(node) for node in graph.nodes}
    maker = {tensor.name: node for node in graph.nodes for tensor in node.outputs if tensor.name}
    alive: set[int] = set()
    waiting = [maker[name] for name in wanted if name in maker]
    while waiting:
        node = waiting.pop()
        if id(node) not in alive:
            alive.add(id(node))
            waiting += [maker[name] for name in reads[id(node)] if name in maker]
    for node in graph.nodes:
        if id(node) not in alive:
            node.inputs.clear()
    graph.nodes = _sorted([node for node in graph.nodes if id(node) in alive], reads, maker)


def _reads(node: gs.Node) -> set[str]:
    """Names of all tensors a node reads, by its subgraphs as well."""
    names = {tensor.name for tensor in node.inputs if tensor.name}
    for graph in node.attrs.values():
        if isinstance(graph, gs.Graph):
            for inner in graph.nodes:
                names |= _reads(inner)
            names |= {tensor.name for tensor in graph.outputs}
    return names


def _sorted(nodes: list[gs.Node], reads: dict[int, set[str]], maker: dict[str, gs.Node]) -> list[gs.Node]:
    order = {id(node): number for number, node in enumerate(nodes)}
    missing: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        makers = {
            order[id(maker[name])] for name in reads[id(node)] if name in maker and id(maker[name]) in order
        }
        makers.discard(number)
        missing[number] = len(makers)
        for made_by in makers:
            readers.setdefault(made_by, []).append(number)
    ready = [number for number, count in missing.items() if not count]
    heapq.heapify(ready)
    result = []
    while ready:
        number = heapq.heappop(ready)
        result.append(nodes[number])
        for reader in readers.get(number, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(result) < len(nodes):
        raise ModelError("the graph has a cycle; export the model again")
    return result
