"""The converters of com.microsoft have the signatures that onnxruntime documents."""

import inspect
from functools import cache
from typing import Any

import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from onnxprune.ops import RULES
from onnxprune.to_torch.registry import Converter, find, known

OF_ONNXRUNTIME = ("LayerNormalization", "SimplifiedLayerNormalization")  # in ONNX's own domain
OURS = [
    c
    for c in known()
    if c.domain == "com.microsoft" or (not c.domain and c.op in OF_ONNXRUNTIME and c.since == 1)
]


@cache
def schemas() -> dict[tuple[str, str, int], Any]:
    return {(s.domain, s.name, s.since_version): s for s in ort_state.get_all_operator_schema()}


@pytest.mark.parametrize("converter", OURS, ids=lambda c: f"{c.domain}.{c.op}")
def test_a_converter_has_the_signature_of_its_schema(converter: Converter) -> None:
    schema = schemas()[converter.domain, converter.op, converter.since]
    keywords = converter.keywords()
    for name, attribute in schema.attributes.items():
        default = keywords[name].default
        if attribute.required:
            assert default is inspect.Parameter.empty
        elif attribute._default_value:
            assert default == _value(onnx.AttributeProto.FromString(attribute._default_value))
        else:
            assert default is not inspect.Parameter.empty
    assert _accepts(converter, schema, all_inputs=False)
    assert _accepts(converter, schema, all_inputs=True) or None in _kinds(converter)


def _accepts(converter: Converter, schema: Any, *, all_inputs: bool) -> bool:
    options = [str(i.option).rpartition(".")[2] for i in schema.inputs]
    given = [all_inputs or option == "Single" for option in options]
    given += [True, True] * ("Variadic" in options)
    while not given[-1]:
        given.pop()
    required = {name: 1 for name, a in schema.attributes.items() if a.required}
    return converter.misfit(given, required, 1) is None


def _kinds(converter: Converter) -> list[Any]:
    """The inputs' annotations; None: one that must be left out."""
    return [p.annotation for p in inspect.signature(converter.call).parameters.values()]


def _value(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, float):
        return pytest.approx(value)
    return value.decode() if isinstance(value, bytes) else value


def test_every_op_that_pruning_knows_in_that_domain_is_known() -> None:
    ops = {op for domain, op in RULES if domain == "com.microsoft"}
    assert len(ops) > 30
    assert {op for op in ops if find("com.microsoft", op, 1) is None} == set()
