"""A model in double precision, run by onnx's reference evaluator: onnxruntime has no convolution of doubles on the CPU.

It is slow and knows ONNX's own ops only, but rounds a billion times finer, so that what two models are apart by in it
is more than the order of their sums.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, inliner, numpy_helper

from onnxprune.apart import Apart

SINGLE, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
TYPES = ("to", "dtype", "output_dtype")
"""Attributes that name an element type."""


class Unsupported(Exception):  # noqa: N818 - not an error: the models are compared as they are
    """A model that cannot be run in double precision."""


class Doubled:
    """Runs a model whose float32 numbers are all doubles. Raises Unsupported where the evaluator cannot."""

    def __init__(self, model: Apart) -> None:
        from onnx.reference import ReferenceEvaluator  # takes longer to import than most models to run

        try:
            proto = in_double(model.whole())
            self.interface = [v.name for v in proto.graph.input], [v.name for v in proto.graph.output]
            self.evaluator = ReferenceEvaluator(proto)
        except Exception as reason:  # it raises anything for what it does not know
            raise Unsupported(f"{type(reason).__name__}: {reason}") from None

    def __call__(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        doubles = {
            name: value.astype(np.float64) if value.dtype == np.float32 else value
            for name, value in feed.items()
        }
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(value) for value in self.evaluator.run(None, doubles)]
        except Exception as reason:  # as above
            raise Unsupported(f"{type(reason).__name__}: {reason}") from None


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with double for float32 throughout: inputs, weights, outputs, and what ops are told to make.

    Model-local functions are inlined. May change `model`.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    _graph(model.graph)
    return model


def _graph(graph: GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _tensor(tensor)
    for value in (*graph.input, *graph.output):
        _value(value)
    _nodes(graph.node)


def _value(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == SINGLE:
        value.type.tensor_type.elem_type = DOUBLE


def _tensor(tensor: TensorProto) -> None:
    if tensor.data_type == SINGLE:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )


def _nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(
                helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32)))
            )
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                value: Any = np.asarray(helper.get_attribute_value(attribute), np.float32)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
            if attribute.HasField("t"):
                _tensor(attribute.t)
            if attribute.HasField("g"):
                _graph(attribute.g)
            if attribute.name in TYPES and attribute.i == SINGLE:
                attribute.i = DOUBLE
