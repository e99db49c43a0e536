"""Quantised numbers: how channels run through ops on integers that stand for `scale * (entry - zero_point)`."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from onnxprune.links import At, Frozen, Links, Same
from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import RULES, Kept, Node, Unknown, Value, axes, repair
from onnxprune.quantized import MICROSOFT, TABLE, Operand, Quantised, channels_last, quantised


@axes("QuantizeLinear", "DequantizeLinear")
@axes("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantize_linear(node: Node) -> str | Links:
    data = names(node.shape())
    if node.attr("block_size", 0):
        return _blocked(node, data)
    of = data.split()[node.attr("axis", 1)] if _entries(node, 1) > 1 else "_"
    return f"{data}, {of}, {of} -> {data}"


def _entries(node: Node, number: int) -> int:
    """How many scales or zero points there are."""
    shape = node.shape(number)
    if len(shape) > 1 or None in shape:
        raise Unknown("its scales lie on several axes")
    return int(shape[0]) if shape else 1


def _blocked(node: Node, data: str) -> Links:
    """Entries of a block share a scale: they stay or go together, so that all blocks but the last stay full."""
    shape, block = node.shape(), node.attr("block_size")
    over = node.attr("axis", 1) % len(shape)
    if shape[over] is None:
        raise Unknown("has blocks on an axis of dynamic size")
    links = replace(node, inputs=node.inputs[:1]).links(f"{data} -> {data}")
    member = tuple(entry // block for entry in range(shape[over]))
    for number in (1, 2):
        for axis, count in enumerate(node.shape(number) if node.has(number) else ()):
            if axis != over:
                links.same.append(Same(At("in0", axis), At(f"in{number}", axis)))
            elif count > 1:
                links.same.append(Same(At(f"in{number}", axis), At("in0", axis), member))
    return links


@axes("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node) -> str:
    """Its range always holds 0, so channels that are closed to 0 do not widen it."""
    data = names(node.shape(), measured=range(len(node.shape())))
    return f"{data} -> {data.replace('~', '')}, , "


@axes(*(op for domain, op in TABLE if not domain))
@axes(*(op for domain, op in TABLE if domain == MICROSOFT), domain=MICROSOFT)
def quantised_op(node: Node) -> Links:
    """What the plain op says of its operands; scales and zero points go with the axis that they lie on."""
    form = _form(node)
    links = _of_plain(node, form)
    if form.multiplies:
        links.same += _parameters(node, form)
    else:
        counted = [at for at in (*links.summed, *links.measured) if at.operand.startswith("in")]
        links.frozen += [Frozen(at, "takes a statistic of whole numbers over them") for at in counted]
        links.summed, links.measured = [], []
    if form.measures:
        over = [At("in0", axis) for axis in range(len(node.shape()))]
        links.measured = [at for at in over if at not in links.summed]
    return links


def _form(node: Node) -> Quantised:
    form = quantised(node.domain, node.op, len(node.inputs))
    if form is None:
        raise Unknown("has no axis rule")
    return form


def _of_plain(node: Node, form: Quantised) -> Links:
    slots = [operand.at for operand in form.operands]
    if form.bias is not None and form.plain != "MatMul":
        slots.append(form.bias)
    inputs = [node.inputs[k] if k < len(node.inputs) else None for k in slots]
    outputs = [*node.outputs]
    to = {f"in{k}": f"in{slot}" for k, slot in enumerate(slots)}
    order: list[int] = []
    if channels_last(node.op, node.attr("channels_last", 0)):
        rank = len(node.shape())
        order = [0, rank - 1, *range(1, rank - 1)]
        inputs[0], outputs[0] = _turned(inputs[0], order), _turned(outputs[0], order)
    plain = replace(node, op=form.plain, inputs=tuple(inputs), outputs=tuple(outputs))
    said = RULES["", form.plain](plain)
    links = plain.links(said) if isinstance(said, str) else said
    moved: Links = _moved(links, to, order)
    return moved


def _turned(value: Value | None, order: list[int]) -> Value | None:
    """An image with its channels first."""
    sizes = value.sizes if value else None
    return value if value is None or sizes is None else replace(value, sizes=tuple(sizes[k] for k in order))


def _moved(said: Any, to: dict[str, str], order: list[int]) -> Any:
    """Statements on other operands, and (`order`) on images whose channels were put first."""
    if isinstance(said, At):
        axis = order[said.axis] if order and said.operand in ("in0", "out0") else said.axis
        return At(to.get(said.operand, said.operand), axis)
    if isinstance(said, list | tuple):
        return type(said)(_moved(one, to, order) for one in said)
    if is_dataclass(said) and not isinstance(said, type):
        return replace(said, **{f.name: _moved(getattr(said, f.name), to, order) for f in fields(said)})
    return said


def _parameters(node: Node, form: Quantised) -> list[Same]:
    """Scales, zero points and biases per output channel."""
    first, second = form.operands
    whole = [*_present(node, first), *(k for k in form.result or () if node.has(k))]
    if any(_entries(node, number) > 1 for number in whole):
        raise Unknown("has several scales for what is no weight")
    rank = len(node.shape(second.at))
    of = At(f"in{second.at}", form.axis(rank, bool(node.attr("transB", 0))))
    per = [number for number in _present(node, second) if _entries(node, number) > 1]
    if form.plain == "MatMul" and form.bias is not None and node.has(form.bias):
        per.append(form.bias)
    if per and (rank < 2 or any(_entries(node, k) != node.shape(second.at)[of.axis] for k in per)):
        raise Unknown("has scales or a bias that do not fit its weight")
    return [Same(of, At(f"in{number}", 0)) for number in per]


def _present(node: Node, operand: Operand) -> list[int]:
    return [k for k in (operand.scale, operand.zero) if k is not None and node.has(k)]


@repair("ConvInteger", "QLinearConv")
@repair("QLinearConv", domain=MICROSOFT)
def group_count(node: Node, kept: Kept) -> None:
    """As many groups as are left."""
    if node.attr("group", 1) > 1:
        weight = node.inputs[_form(node).operands[1].at]
        channels = len(node.shape()) - 1 if node.attr("channels_last", 0) else 1
        node.raw.attrs["group"] = kept.size(node.inputs[0], channels) // kept.size(weight, 1)
