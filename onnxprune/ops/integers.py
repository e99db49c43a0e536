"""Ops on quantised numbers: their gated forms, and the shapes of those that onnx does not know."""

from functools import partial

import onnx
from onnx import TensorProto, helper

from onnxprune.ops.forms import Form, gated
from onnxprune.quantized import MICROSOFT, TABLE, channels_last, quantised
from onnxprune.shapes.foreign import Call, Silent, Sizes, shapes

HELD = [key for key, form in TABLE.items() if form.multiplies and form.operands[0].zero is not None]
"""Ops that multiply whole numbers after taking a zero point off them."""


@gated(*(op for domain, op in HELD if not domain), whole_numbers=True)
@gated(*(op for domain, op in HELD if domain == MICROSOFT), domain=MICROSOFT, whole_numbers=True)
def hold_zero_point(form: Form) -> None:
    """Closed channels hold the zero point, which stands for 0; the sums are whole numbers, so nothing is rounded."""
    node = form.node
    said = TABLE[node.domain, node.op]
    position = said.operands[0].zero or 0
    zero = form.inputs[position] if node.has(position) else form.constant(0)
    is_open = form.op("Greater", "w", form.constant(0.0, TensorProto.FLOAT))
    held = form.op("Where", is_open, form.inputs[0], zero)
    attributes = {name: value for name, value in node.raw.attrs.items() if name != "domain"}
    form.result(form.op(node.op, held, *form.inputs[1:], domain=node.domain, **attributes))


def _like(op: str, call: Call) -> int:
    """The input whose element type comes out: the zero point; a scale where the result is not quantised."""
    form = quantised(MICROSOFT, op, call.inputs)
    if form is None:
        return 0
    if form.multiplies and (form.result is None or not call.has(form.result[0])):
        return form.operands[1].scale or 0
    if form.result is not None and call.has(form.result[1]):
        return form.result[1]
    return form.operands[-1 if form.plain == "Where" else 0].at


def _shape(op: str, call: Call) -> list[Sizes]:
    """As onnx infers it for the plain op."""
    form = quantised(MICROSOFT, op, call.inputs)
    if form is None:
        raise Silent
    schema = onnx.defs.get_schema(form.plain, 13)
    sizes = [call.shape(operand.at) for operand in form.operands]
    last = channels_last(op, call.attr("channels_last", 0))
    if last:
        sizes[0] = (sizes[0][0], sizes[0][-1], *sizes[0][1:-1])
    kinds = [
        TensorProto.BOOL if form.plain == "Where" and k == 0 else TensorProto.FLOAT for k in range(len(sizes))
    ]
    types = {
        f"x{k}": helper.make_tensor_type_proto(kind, shape)
        for k, (kind, shape) in enumerate(zip(kinds, sizes, strict=True))
    }
    given = {name: value for name in schema.attributes if (value := call.attr(name)) is not None}
    node = helper.make_node(form.plain, [*types], ["y"], **given)
    opsets = [helper.make_opsetid("", 13)]
    found = onnx.shape_inference.infer_node_outputs(schema, node, types, {}, opset_imports=opsets)
    made = tuple(axis.dim_value for axis in found["y"].tensor_type.shape.dim)
    return [(made[0], *made[2:], made[1]) if last else made]


@shapes("QuantizeLinear", domain=MICROSOFT, like=2)
@shapes("DequantizeLinear", domain=MICROSOFT, like=1)
def unchanged(call: Call) -> list[Sizes]:
    return [call.shape(0)]


for _domain, _op in TABLE:
    if _domain == MICROSOFT:
        shapes(_op, domain=_domain, like=partial(_like, _op))(partial(_shape, _op))
