"""LSTM, GRU and RNN: hidden channels, which the op itself reads back from the step before."""

from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.axes import bind
from onnxprune.links import At, Links, Shape
from onnxprune.ops.registry import Kept, Node, Value, axes, repair

RECURRENT = ("LSTM", "GRU", "RNN")
STATES = (5, 6)
"""Where `initial_h` and `initial_c` stand."""
PASSING = {
    "Cast",
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Ops whose outputs hold nothing but entries of their first input."""


@axes(*RECURRENT)
def recurrent(node: Node) -> Links:
    """All that happens within a step is each hidden channel's own (gates, peepholes, clipping) but for the product with
    R, so a gate on R's columns keeps a closed channel from all others, in every step. Both directions lose the same
    channels: there is one `hidden_size` for the two.
    """
    x, y, state = "T n i", "T D n h", "D n h"
    if node.attr("layout", 0):
        x, y, state = "n T i", "n T D h", "n D h"
    operands = [x, "D (F h) i", "D (F h) ~h", "D (B h)", "n", state, state, "D (P h)"]
    links = bind(
        f"{', '.join(operands)} -> {y}, {state}, {state}", _shapes(node.inputs), _shapes(node.outputs)
    )
    each = (At("in0", 0), At("in0", 1), At("in1", 0))
    links.macs = (*each, At("in1", 1), At("in1", 2))
    links.more_macs.append((*each, At("in2", 1), At("in2", 2)))
    return links


def _shapes(values: Sequence[Value | None]) -> list[Shape | EllipsisType | None]:
    return [None if value is None else ... if value.shape is None else value.shape for value in values]


@repair(*RECURRENT)
def hidden_size(node: Node, kept: Kept) -> None:
    """As many hidden channels as are left."""
    node.raw.attrs["hidden_size"] = kept.size(node.inputs[2], 2)


def leave_out_zero_states(graph: gs.Graph) -> None:
    """Takes away initial states that are zero anyway, as absent ones are. Exporters cut the states of all layers out of
    one tensor of zeros, which would tie the layers' channels to each other.
    """
    for node in graph.nodes:
        if node.op not in RECURRENT:
            continue
        for number in STATES:
            if number < len(node.inputs) and _is_zero(node.inputs[number]):
                node.inputs[number] = gs.Variable.empty()
        while not node.inputs[-1].name:
            node.inputs.pop()


def _is_zero(tensor: gs.Tensor) -> bool:
    """Whether all entries are zero, whatever the model is given."""
    if isinstance(tensor, gs.Constant):
        return not np.any(tensor.values)
    if not tensor.inputs:
        return False
    maker = tensor.inputs[0]
    if maker.op == "ConstantOfShape":
        value = maker.attrs.get("value")
        return value is None or not np.any(value.values)
    if maker.op == "Concat":
        return all(_is_zero(part) for part in maker.inputs)
    return maker.op in PASSING and _is_zero(maker.inputs[0])
