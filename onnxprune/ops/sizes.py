"""Shape and Size: how long axes are, handed on as values.

Static sizes were folded away, and masked out of the operands that tell an op a shape. What is left of the arithmetic
may still carry them along, next to dynamic ones; so it is followed, entry by entry, to where it ends.
"""

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from onnxprune.links import At, Frozen, Links
from onnxprune.ops.registry import Node, Unknown, axes


@axes("Shape")
def shape(node: Node) -> Links:
    rank = len(node.shape())
    told = range(rank)[slice(node.attr("start", 0), node.attr("end"))]
    links = Links(free=[At("in0", axis) for axis in range(rank)])
    static = [axis for axis in told if node.shape()[axis] is not None]
    if not _only_dynamic(node.raw.outputs[0], [axis not in static for axis in told], node.graph):
        links.frozen += [Frozen(At("in0", axis), "hands its size on as a value") for axis in static]
    return links


@axes("Size")
def size(node: Node) -> Links:
    raise Unknown("it hands the number of entries on as a value")


def _only_dynamic(sizes: gs.Tensor, dynamic: Sequence[bool], graph: gs.Graph, *, more: bool = False) -> bool:
    """Whether nothing takes other entries of this vector of sizes than the dynamic ones. `more`: it has further entries
    behind these, how many is not known.
    """
    if all(dynamic):
        return True
    return not any(sizes is out for out in graph.outputs) and all(
        _takes_dynamic(reader, sizes, dynamic, graph, more) for reader in sizes.outputs
    )


def _takes_dynamic(
    reader: gs.Node, sizes: gs.Tensor, dynamic: Sequence[bool], graph: gs.Graph, more: bool
) -> bool:
    at = [number for number, tensor in enumerate(reader.inputs) if tensor is sizes]
    left: Sequence[bool]
    match reader.op:
        case "Where" if at == [2] and isinstance(reader.inputs[0], gs.Constant):  # what Node.set_shape makes
            known = _entries(reader.inputs[0])
            return all(known[k % len(known)] or varies for k, varies in enumerate(dynamic))
        case "Cast":
            left = dynamic
        case "Concat" if len(at) == 1:
            lengths = [_length(tensor) for tensor in reader.inputs[: at[0]]]
            if None in lengths:
                return False
            left, more = [True] * sum(n for n in lengths if n) + list(dynamic), True
        case _ if more or at != [0]:
            return False
        case "Squeeze" | "Unsqueeze" if len(dynamic) == 1:
            left = dynamic
        case "Gather" if isinstance(reader.inputs[1], gs.Constant):
            left = [dynamic[index] for index in _entries(reader.inputs[1])]
        case "Slice" if "starts" in reader.attrs:
            left = dynamic[slice(reader.attrs["starts"][0], reader.attrs["ends"][0])]
        case "Slice" if all(isinstance(t, gs.Constant) for t in reader.inputs[1:]):
            first, end, *others = (_entries(t)[0] for t in reader.inputs[1:])
            left = dynamic[slice(first, end, others[1] if len(others) > 1 else 1)]
        case _:
            return False
    return _only_dynamic(reader.outputs[0], left, graph, more=more)


def _length(sizes: gs.Tensor) -> int | None:
    """How many entries a vector of sizes has, where its maker tells."""
    if isinstance(sizes, gs.Constant):
        return int(sizes.values.size)
    return 1 if sizes.inputs and sizes.inputs[0].op == "Unsqueeze" else None


def _entries(tensor: gs.Constant) -> list[Any]:
    return list(tensor.values.reshape(-1).tolist())
