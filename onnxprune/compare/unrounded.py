"""A quantised model with real numbers in place of whole ones: the same scales, zero points and limits, no rounding.

A sum in another order moves the last bit, which flips a rounding, which shows as 1e-2 after a few layers. So whether
two quantised models compute the same function is seen on what they compute without rounding: `x / scale + zero_point`
held within the limits of the integer type. What no input changes stays as it is, rounded and all.
"""

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from onnxprune.quantized import TABLE, Operand, Quantised, channels_last, quantised

ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", *(op for _, op in TABLE)}
"""Ops that round what follows from the inputs; MatMulNBits inside, where its accuracy_level says so."""
MIXING = {
    "Add", "Clip", "Concat", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul",
    "PRelu", "Pad", "Sub", "Sum", "Where",
}  # fmt: skip
"""Ops whose operands are of one type; others have indices among them."""
WHOLE = {
    TensorProto.DataType.Value(name)
    for name in TensorProto.DataType.keys()  # noqa: SIM118 - no dict
    if name.startswith(("INT", "UINT", "FLOAT8", "FLOAT4")) and not name.endswith("64")
}
"""Element types of quantised numbers."""


def unrounded(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of the model that does not round; None where it rounds nothing, or in a way that is not known here."""
    inside = any(_rounds(function.node) for function in model.functions)
    if not inside and not _rounds(model.graph.node):
        return None
    if inside:
        model = inliner.inline_local_functions(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    writer = _Writer(opset)
    try:
        writer.rewrite(copy.graph)
    except _Unknown:
        return None
    return copy if writer.count else None


def _rounds(nodes: Iterable[NodeProto]) -> bool:
    """Whether any of these, or of those in their bodies, is such an op."""
    return any(
        node.op_type in ROUNDING
        or any(_rounds(entry.g.node) for entry in node.attribute if entry.HasField("g"))
        for node in nodes
    )


class _Unknown(Exception):  # noqa: N818 - not an error: the model is compared as it is
    """An op whose real form is not known."""


class _Writer:
    """Writes nodes anew. `real`: values that were whole and are not any more; `fixed`: those that no input changes."""

    def __init__(self, opset: int) -> None:
        self.opset, self.count, self.made = opset, 0, 0
        self.nodes: list[NodeProto] = []
        self.real: set[str] = set()
        self.fixed = {""}
        self.types: dict[str, int] = {}
        self.single: set[str] = set()
        """Constants of one entry."""
        self.floats: dict[str, str] = {}
        """Values by what they are as float32."""

    def rewrite(self, graph: GraphProto) -> None:
        """Replaces the nodes of a graph in place."""
        outer, self.nodes, self.floats = (self.nodes, self.floats), [], {}
        for tensor in graph.initializer:
            self._know(tensor.name, tensor)
        self.types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        for node in graph.node:
            self._take(node)
        del graph.node[:], graph.value_info[:], graph.quantization_annotation[:]
        graph.node.extend(self.nodes)
        for value in graph.output:
            if value.name in self.real:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        self.nodes, self.floats = outer

    def _know(self, name: str, tensor: TensorProto) -> None:
        self.fixed.add(name)
        self.types[name] = tensor.data_type
        if np.prod(tensor.dims) == 1:
            self.single.add(name)

    def _take(self, node: NodeProto) -> None:
        """Adds what the node becomes."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        form = quantised(domain, node.op_type, len(node.input))
        inner = any(entry.type == AttributeProto.GRAPH for entry in node.attribute)
        if self.fixed.issuperset(node.input) and not inner:
            self._keep_fixed(node)
        elif node.op_type == "QuantizeLinear":
            axis = _attribute(node, "axis", 1)
            self._quantise(self._float(node.input[0]), node, 1, 2, axis, _attribute(node, "output_dtype", 0))
        elif node.op_type == "DequantizeLinear" and node.input[0] in self.real:
            self._dequantise(node)
        elif node.op_type == "DynamicQuantizeLinear":
            self._measured(node)
        elif form is not None:
            self._plain(node, form)
        else:
            self._other(node)

    def _keep_fixed(self, node: NodeProto) -> None:
        self.nodes.append(node)
        self.fixed.update(node.output)
        tensor = _attribute(node, "value", None)
        if node.op_type == "Constant" and tensor is not None:
            self._know(node.output[0], tensor)

    def _other(self, node: NodeProto) -> None:
        """An op that takes whatever numbers it is given: where some are real, its other operands become so."""
        node = _copy(node)
        for entry in node.attribute:
            if entry.type == AttributeProto.GRAPH:
                self.rewrite(entry.g)
        if node.op_type == "MatMulNBits":
            _set(node, accuracy_level=1)
            self.count += 1
        if self.real.intersection(node.input):
            for number, name in enumerate(node.input):
                if node.op_type in MIXING and name not in self.real and self.types.get(name) in WHOLE:
                    node.input[number] = self._float(name)
            if node.op_type == "Gate":
                _set(node, to=TensorProto.FLOAT)
            if node.op_type not in ("Cast", "Shape", "Size"):
                self.real.update(node.output)
        self.nodes.append(node)

    def _measured(self, node: NodeProto) -> None:
        """Quantised by a scale that follows from the input: it may as well be 1."""
        self.count += 1
        self.real.update({node.output[0], *node.output[2:]})
        self.nodes.append(helper.make_node("Identity", node.input, node.output[:1]))
        for name, value in zip(node.output[1:], (1.0, 0.0), strict=False):
            self.nodes.append(helper.make_node("Constant", [], [name], value_float=value))

    def _quantise(
        self, x: str, node: NodeProto, scale: int, zero: int, axis: int = 0, element: int = 0
    ) -> None:
        """`x / scale + zero_point` within the limits of its element type."""
        if node.op_type == "QuantizeLinear" and _attribute(node, "block_size", 0):
            raise _Unknown
        self.count += 1
        self.real.add(node.output[0])
        value = self._op("Div", x, self._laid_out(node.input[scale], x, axis))
        if _has(node, zero):
            value = self._op("Add", value, self._laid_out(node.input[zero], x, axis))
            element = self.types.get(node.input[zero], 0)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element or TensorProto.UINT8))
        limits: Any = (ml_dtypes.finfo if "float" in dtype.name else ml_dtypes.iinfo)(dtype)
        least = self._op("Max", value, self._constant(np.float32(limits.min)))
        self._op("Min", least, self._constant(np.float32(limits.max)), out=node.output[0])

    def _dequantise(self, node: NodeProto) -> None:
        value, axis = node.input[0], _attribute(node, "axis", 1)
        if _attribute(node, "block_size", 0):
            raise _Unknown
        if _has(node, 2):
            value = self._op("Sub", value, self._laid_out(node.input[2], value, axis))
        value = self._op("Mul", value, self._laid_out(node.input[1], value, axis))
        to = _attribute(node, "output_dtype", 0) or self.types.get(node.input[1]) or TensorProto.FLOAT
        self._op("Cast", value, out=node.output[0], to=to)

    def _plain(self, node: NodeProto, form: Quantised) -> None:
        """The plain op on real operands, quantised again where the op does so."""
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        transposed, alpha = bool(attributes.get("transB", 0)), attributes.get("alpha", 1.0)
        operands = [self._operand(node, form, k, transposed) for k in range(len(form.operands))]
        bias = self._float(node.input[form.bias]) if form.bias is not None and _has(node, form.bias) else ""
        if bias and form.plain != "MatMul":
            scales = [self._float(node.input[operand.scale]) for operand in form.operands if operand.scale]
            unit = self._op("Mul", self._op("Mul", *scales), self._constant(np.float32(alpha)))
            operands.append(self._op("Mul", bias, unit))
        known = onnx.defs.get_schema(form.plain, self.opset).attributes
        kept = {name: value for name, value in attributes.items() if name in known}
        last = channels_last(node.op_type, attributes.get("channels_last", 0))
        rank = len(attributes.get("kernel_shape", (1, 1))) + 2
        if last:
            operands[0] = self._op("Transpose", operands[0], perm=[0, rank - 1, *range(1, rank - 1)])
        value = self._op(form.plain, *operands, **kept)
        if last:
            value = self._op("Transpose", value, perm=[0, *range(2, rank), 1])
        if bias and form.plain == "MatMul":
            value = self._op("Add", value, bias)
        if form.result is not None and _has(node, form.result[0]):
            self._quantise(value, node, *form.result)
        else:
            self.count += 1
            self.real.add(node.output[0])
            self._op("Identity", value, out=node.output[0])

    def _operand(self, node: NodeProto, form: Quantised, number: int, transposed: bool) -> str:
        """An operand as `scale * (entry - zero_point)`."""
        operand: Operand = form.operands[number]
        if form.plain == "Where" and number == 0:
            return node.input[operand.at]
        value = self._float(node.input[operand.at])
        axis = 0 if form.plain == "Conv" or transposed else -1
        for kind, slot in (("Sub", operand.zero), ("Mul", operand.scale)):
            if slot is not None and _has(node, slot):
                value = self._op(kind, value, self._laid_out(node.input[slot], value, axis))
        return value

    def _laid_out(self, parameter: str, x: str, axis: int) -> str:
        """A scale or zero point against x: one, or one per entry of this axis of x."""
        value = self._float(parameter)
        if parameter in self.single or axis == -1:
            return value
        rank = self._op("Shape", self._op("Shape", x))
        if axis >= 0:
            after = self._op("Sub", rank, self._constant(np.asarray([axis + 1])))
        else:
            after = self._constant(np.asarray([-axis - 1]))
        one = numpy_helper.from_array(np.asarray([1]))
        ones = self._op("ConstantOfShape", after, value=one)
        shape = self._op("Concat", self._constant(np.asarray([-1])), ones, axis=0)
        return self._op("Reshape", value, shape)

    # ------------------------------------------------------------------ nodes

    def _float(self, name: str) -> str:
        """The value as float32."""
        if name in self.real:
            return name
        if name not in self.floats:
            self.floats[name] = self._op("Cast", name, to=TensorProto.FLOAT)
        return self.floats[name]

    def _constant(self, value: Any) -> str:
        return self._op("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def _op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        self.made += 1
        out = out or f"unrounded/{self.made}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out


def _has(node: NodeProto, number: int) -> bool:
    return len(node.input) > number and bool(node.input[number])


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _set(node: NodeProto, **attributes: int) -> None:
    """Sets attributes in place."""
    others = [entry for entry in node.attribute if entry.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*others, *(helper.make_attribute(name, n) for name, n in attributes.items())])
