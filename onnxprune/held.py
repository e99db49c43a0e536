"""Large weights in the graph library: it exports a mark in their place, whoever reads them gets the values."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxprune import apart
from onnxprune.apart import PLAIN, fits, is_apart, mark_of, marked

PACKED = {"int4", "uint4", "int2", "uint2", "float4_e2m1fn"}
"""Element types smaller than a byte."""


class Held(LazyValues):  # type: ignore[misc]
    """A marked tensor and its values: the graph library exports the one, and reads the other."""

    def __init__(self, tensor: onnx.TensorProto, values: np.ndarray) -> None:
        super().__init__(tensor)
        self.shape, self.values = values.shape, values

    def load(self) -> np.ndarray:
        return self.values


def give_back(graph: gs.Graph, weights: Mapping[str, np.ndarray]) -> None:
    """Joins tensors that an imported graph knows without their values with these."""
    for scope in (graph, *graph.subgraphs(recursive=True)) if weights else ():
        for tensor in (*scope.outputs, *(tensor for node in scope.nodes for tensor in node.inputs)):
            if not isinstance(tensor, gs.Constant) or type(tensor._values) is not LazyValues:
                continue
            if is_apart(tensor._values.tensor):
                tensor._values = Held(tensor._values.tensor, weights[tensor.name])
                tensor.data_location = None


def hold_large(graph: gs.Graph) -> dict[str, np.ndarray]:
    """Makes sure that the library exports large weights of the main graph without their values; returns these."""
    inside = [t for body in graph.subgraphs(recursive=True) for t in body.tensors().values()]
    for tensor in inside:  # exported with the body
        if isinstance(tensor, gs.Constant) and isinstance(tensor._values, Held):
            tensor._values = tensor._values.values
    bodies = {id(tensor) for tensor in inside}
    weights = {}
    everything = graph.tensors().values()
    _pack([*inside, *everything])
    for tensor in everything:
        if not isinstance(tensor, gs.Constant) or id(tensor) in bodies:
            continue
        held = tensor._values if isinstance(tensor._values, Held) else _held(tensor)
        if held is not None:
            tensor._values, tensor.data_location = held, None
            weights[tensor.name] = held.values
    return weights


def _held(tensor: gs.Constant) -> Held | None:
    """The values of a constant apart, or None where it is small or of a type that does not stand apart."""
    stored = tensor._values
    if isinstance(stored, LazyValues):
        proto = stored.tensor
        if (
            not isinstance(proto, onnx.TensorProto)
            or stored.nbytes <= apart.LARGE
            or not fits(proto, len(proto.raw_data))
        ):
            return None
        return Held(marked(proto), stored.load())
    if stored.nbytes <= apart.LARGE or stored.dtype not in PLAIN.values():
        return None
    values = np.ascontiguousarray(stored)
    return Held(mark_of(tensor.name, values), values)


def _pack(tensors: Iterable[gs.Tensor]) -> None:
    """Types of which several entries fit into a byte; the library would write each into a byte of its own."""
    for tensor in tensors:
        stored = tensor._values if isinstance(tensor, gs.Constant) else None
        if isinstance(stored, np.ndarray) and stored.dtype.name in PACKED:
            tensor._values = LazyValues(onnx.numpy_helper.from_array(stored, tensor.name))
