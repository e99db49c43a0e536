"""Networks in ONNX text, their weights drawn at random.

net("net (float[N,3] x) => (float[N,2] y) { h = Gemm(x, v)  y = Gemm(h, w) }", v=(3, 8), w=(8, 2))
"""

from math import prod

import numpy as np
import onnx
from onnx import numpy_helper
from onnx_text import parsed

from onnxprune import groups, model


def net(
    text: str,
    *,
    opset: int = 18,
    seed: int = 0,
    values: dict[str, np.ndarray] | None = None,
    **shapes: tuple[int, ...],
) -> onnx.ModelProto:
    """The graph of `text` with initializers of these `values`, and random ones of these `shapes`."""
    proto = parsed(text, opset=opset)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        scale = (2 / max(prod(shape[1:]), 1)) ** 0.5 if len(shape) > 1 else 1.0
        array = (rng.normal(0, scale, shape) + (len(shape) == 1)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in (values or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{number}"
    return proto


def analysed(proto: onnx.ModelProto) -> groups.Groups:
    return groups.find(model.load(proto))


def sizes(found: groups.Groups) -> dict[str, int]:
    """Prunable groups and their sizes."""
    return {group.name: group.size for group in found}


def because(found: groups.Groups, tensor: str, axis: int) -> set[str]:
    """Why entries of this axis are frozen; empty where all of them may go."""
    labels = found.labels[tensor][axis]
    assert labels is not None
    return {found.reasons[r].text for r in found.atoms.because[found.atoms.of[labels]].tolist() if r >= 0}


def same_weights(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Whether both have the same initializers, wherever their files and graphs keep them."""
    ours, theirs = ({t.name: numpy_helper.to_array(t) for t in _initializers(proto.graph)} for proto in (a, b))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _initializers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    bodies = [entry.g for node in graph.node for entry in node.attribute if entry.HasField("g")]
    return [*graph.initializer, *(tensor for body in bodies for tensor in _initializers(body))]
