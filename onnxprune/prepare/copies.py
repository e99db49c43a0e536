"""Nodes that hand on what they are given: exporters differ in them, and rules that look at neighbours stop at them."""

import onnx_graphsurgeon as gs

COPYING = {"Identity", "Dropout"}


def take_out_copies(graph: gs.Graph) -> None:
    """Lets readers of an Identity, or of a Dropout that does not train, read what it is given, in place."""
    needed = {tensor.name for tensor in graph.outputs}
    left = []
    for node in graph.nodes:
        if not _copies(node) or any(tensor.name in needed for tensor in node.outputs):
            left.append(node)
            continue
        source, copy = node.inputs[0], node.outputs[0]
        for reader in {id(reader): reader for reader in copy.outputs}.values():
            for position, tensor in enumerate(reader.inputs):
                if tensor is copy:
                    reader.inputs[position] = source
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes = left


def _copies(node: gs.Node) -> bool:
    if node.domain not in (None, "", "ai.onnx") or node.op not in COPYING:
        return False
    if any(mask.outputs for mask in node.outputs[1:]):
        return False
    trains = node.inputs[2] if len(node.inputs) > 2 else None
    if trains is None or not trains.name:
        return True
    return isinstance(trains, gs.Constant) and not trains.values.any()
