"""Shapes of ops that onnx does not know, such as those that onnxruntime writes into the models that it optimises.

@shapes("BiasGelu", domain="com.microsoft")
def bias_gelu(node: Call) -> list[Sizes]:
    return [node.shape(0)]
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
from onnx.checker import ValidationError
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceError, infer_node_outputs

Sizes = tuple[int, ...]


class Silent(Exception):  # noqa: N818 - not an error: the outputs' shapes stay unknown
    """A shape that is needed is not known."""


class Call:
    """One node as a shape function sees it: at one binding, so that every size is a number."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def attr(self, name: str, default: Any = None) -> Any:
        found = self._context.get_attribute(name)
        return default if found is None else onnx.helper.get_attribute_value(found)

    @property
    def inputs(self) -> int:
        """How many there are."""
        return int(self._context.get_num_inputs())

    def has(self, number: int) -> bool:
        """Whether optional input `number` is given."""
        return number < self.inputs and bool(self._context.has_input(number))

    def shape(self, number: int) -> Sizes:
        """Sizes of input `number`; Silent where they are not known, or the input is absent."""
        return _sizes(self._context.get_input_type(number) if self.has(number) else None)

    def as_if(self, op: str) -> list[Sizes]:
        """Sizes of the outputs of ONNX's own op of this name, with the same operands and attributes."""
        schema = onnx.defs.get_schema(op)
        names = [f"i{k}" if self.has(k) else "" for k in range(min(self.inputs, len(schema.inputs)))]
        node = onnx.helper.make_node(op, names, [f"o{k}" for k in range(len(schema.outputs))])
        given = (self._context.get_attribute(name) for name in schema.attributes)
        node.attribute.extend(attribute for attribute in given if attribute is not None)
        types = {name: self._context.get_input_type(k) for k, name in enumerate(names) if name}
        if any(known is None for known in types.values()):
            raise Silent
        found = infer_node_outputs(schema, node, types)
        return [_sizes(found[name]) for name in node.output if name in found]


def _sizes(given: onnx.TypeProto | None) -> Sizes:
    known = given is not None and given.tensor_type.HasField("shape")
    axes = given.tensor_type.shape.dim if given is not None else ()
    if not known or not all(axis.HasField("dim_value") for axis in axes):
        raise Silent
    return tuple(axis.dim_value for axis in axes)


ShapeOf = Callable[[Call], "list[Sizes] | list[Sizes | None]"]
"""The sizes of the outputs, those at the end left out that nobody asks for; None: not known."""
Like = int | Callable[[Call], int]
SHAPES: dict[tuple[str, str], tuple[ShapeOf, Like]] = {}
"""By domain and op: the function, and the input whose element type the outputs have."""
ATTRIBUTES: dict[tuple[str, str], Mapping[str, OpSchema.AttrType]] = {}
"""The attributes of ops that stand in ONNX's own domain, where the checker asks for them."""


def shapes(
    *ops: str, domain: str, like: Like = 0, attributes: Mapping[str, OpSchema.AttrType] | None = None
) -> Callable[[ShapeOf], ShapeOf]:
    """Registers what shapes these ops' outputs have; their element type is that of input number `like`."""

    def register(function: ShapeOf) -> ShapeOf:
        for op in ops:
            if (domain, op) in SHAPES:
                raise ValueError(f"{op} has two shape functions")
            SHAPES[domain, op] = function, like
            ATTRIBUTES[domain, op] = attributes or {}
        return function

    return register


@contextmanager
def taught(proto: onnx.ModelProto, *, to_checker: bool = False) -> Iterator[None]:
    """Within, onnx's own inference knows the model's ops as well, or its checker those that stand in ONNX's own domain.
    They are forgotten at the end: the table is the process's, and all would be held against it.
    """
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    added = [
        (domain, op)
        for domain, op in {(node.domain, node.op_type) for node in proto.graph.node} & SHAPES.keys()
        if not onnx.defs.has(op, opsets.get(domain, 1), domain) and not (domain and to_checker)
    ]
    for domain, op in added:
        onnx.defs.register_schema(_schema(domain, op))
    try:
        yield
    finally:
        for domain, op in added:
            onnx.defs.deregister_schema(op, 1, domain)


def _schema(domain: str, op: str) -> OpSchema:
    function, like = SHAPES[domain, op]

    def infer(context: Any) -> None:
        call = Call(context)
        source = like if isinstance(like, int) else like(call)
        given = context.get_input_type(source) if call.has(source) else None
        element = 0 if given is None else given.tensor_type.elem_type
        try:
            found: list[Sizes | None] = [*function(call)]
        except (Silent, InferenceError, ValidationError, ArithmeticError, LookupError, ValueError):
            found = []
        for number in range(context.get_num_outputs()):
            sizes = found[number] if number < len(found) else None
            if element and (sizes is not None or number == 0):  # the first has its type in any case
                context.set_output_type(number, onnx.helper.make_tensor_type_proto(element, sizes))

    any_number = OpSchema.FormalParameterOption.Variadic
    given, made = (
        OpSchema.FormalParameter(name, name, param_option=any_number, is_homogeneous=False, min_arity=0)
        for name in ("T", "U")
    )
    types = [
        (name, onnx.defs.get_schema("Identity").type_constraints[0].allowed_type_strs, "") for name in "TU"
    ]
    attributes = [
        OpSchema.Attribute(name, kind, "", required=False) for name, kind in ATTRIBUTES[domain, op].items()
    ]
    schema = OpSchema(
        op, domain, 1, inputs=[given], outputs=[made], type_constraints=types, attributes=attributes
    )
    schema.set_type_and_shape_inference_function(infer)
    return schema


@shapes(
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    domain="",
    attributes={
        "axis": OpSchema.AttrType.INT,
        "epsilon": OpSchema.AttrType.FLOAT,
        "stash_type": OpSchema.AttrType.INT,
    },
)
def layer_normalization_shape(node: Call) -> list[Sizes]:
    """LayerNormalization in models of an opset that does not have it yet, and the norm that ONNX calls RMSNormalization
    under its first name.
    """
    data = node.shape(0)
    first = node.attr("axis", -1) % len(data)
    statistics = (*data[:first], *(1 for _ in data[first:]))
    return [data, statistics, statistics]
