"""The specification's cases as exporters write such nodes: shapes, axes and other numbers are initializers."""

import numpy as np
import onnx
from node_cases import torch_value
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase

from onnxprune.to_torch.operands import Form
from onnxprune.to_torch.registry import find

NUMBERS = (Form.INTS, Form.FLOATS, Form.SCALAR)


def with_numbers_held(case: TestCase) -> tuple[onnx.ModelProto, list[object]]:
    """The model and what is left to feed."""
    model, fed = onnx.ModelProto(), []
    model.CopyFrom(case.model)
    asked = _numbers(model)
    for value, given in zip(case.model.graph.input, case.data_sets[0][0], strict=True):
        plain = isinstance(given, np.ndarray) and given.ndim < 2 and given.dtype.kind in "biuf"
        if plain and (value.name in asked or given.ndim == 0 or given.dtype.kind in "iu"):
            model.graph.initializer.append(numpy_helper.from_array(given, value.name))
        else:
            fed.append(torch_value(given))
    return model, fed


def _numbers(model: onnx.ModelProto) -> set[str]:
    """The operands that a converter takes as Python numbers."""
    opsets = {o.domain: o.version for o in model.opset_import}
    names = set()
    for node in model.graph.node:
        converter = find(node.domain, node.op_type, opsets.get(node.domain, 1))
        forms = converter.forms(len(node.input)) if converter else ()
        names |= {name for name, form in zip(node.input, forms, strict=False) if form in NUMBERS}
    return names
