"""Small constants that several layers dequantise in one node get a node per reader, as float constants are copied."""

from math import prod

import onnx_graphsurgeon as gs

from onnxprune.shapes import Shapes


def one_node_each(graph: gs.Graph, shapes: Shapes, largest: int) -> None:
    """Copies DequantizeLinear nodes of constants with at most so many entries, in place."""
    top_level = {id(node) for node in graph.nodes}
    taken, nodes = set(graph.tensors()), []
    outputs = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        nodes.append(node)
        if node.op != "DequantizeLinear" or node.outputs[0].name in outputs:
            continue
        operands = [tensor for tensor in node.inputs if tensor.name]
        if (
            not all(isinstance(tensor, gs.Constant) for tensor in operands)
            or prod(operands[0].shape) > largest
        ):
            continue
        real = node.outputs[0]
        readers = {id(reader): reader for reader in real.outputs}.values()
        slots = [(reader, k) for reader in readers for k, t in enumerate(reader.inputs) if t is real]
        for number, (reader, position) in enumerate(slots[1:], 1):
            name = f"{real.name}__{number}"
            if id(reader) not in top_level or name in taken:
                continue
            copy = gs.Variable(name, dtype=real.dtype, shape=real.shape)
            reader.inputs[position] = copy
            stem, operands = f"{node.name}__{number}", [*node.inputs]
            nodes.append(gs.Node(node.op, stem, dict(node.attrs), operands, [copy], domain=node.domain))
            if real.name in shapes.sizes:
                shapes.sizes[name] = shapes.sizes[real.name]
            if real.name in shapes.types:
                shapes.types[name] = shapes.types[real.name]
    graph.nodes = nodes
