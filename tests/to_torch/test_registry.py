import inspect

import onnx
import pytest
import torch
from onnx import defs

from onnxprune.to_torch.registry import Converter, converts, find, known

EXPERIMENTAL = {
    (op, 1)
    for op in ("Affine", "Crop", "DynamicSlice", "ImageScaler", "MeanVarianceNormalization",
               "ParametricSoftplus", "ScaledTanh", "ThresholdedRelu")
}  # they have no schema any more  # fmt: skip
LEFT_OUT = {"consumed_inputs", "sparse_value"}  # nothing reads the first, torch cannot hold the second
OF_ONNXRUNTIME = {("LayerNormalization", 1), ("SimplifiedLayerNormalization", 1)}
"""They stand in ONNX's own domain; test_microsoft_schemas.py has their signatures."""
STANDARD = [
    c
    for c in known()
    if c.domain in ("", "ai.onnx.ml") and (c.op, c.since) not in EXPERIMENTAL | OF_ONNXRUNTIME
]


def _schema(converter: Converter) -> defs.OpSchema:
    """The schema of the last opset that the converter serves."""
    name, domain = converter.op, converter.domain
    others = [c.since for c in STANDARD if (c.op, c.domain) == (name, domain) and c.since > converter.since]
    schema = defs.get_schema(name, min(others, default=onnx.defs.onnx_opset_version() + 1) - 1, domain)
    gone = schema.deprecated and schema.since_version > converter.since
    return defs.get_schema(name, schema.since_version - 1, domain) if gone else schema


@pytest.mark.parametrize("converter", STANDARD, ids=lambda c: f"{c.op}-{c.since}")
def test_a_converter_has_the_signature_of_its_schema(converter: Converter) -> None:
    schema = defs.get_schema(converter.op, converter.since, converter.domain)
    assert schema.since_version == converter.since
    schema = _schema(converter)
    attributes = {n: a for n, a in schema.attributes.items() if n not in LEFT_OUT and not _of_strings(n)}
    for name, attribute in attributes.items():
        default = converter.keywords()[name].default
        if attribute.default_value.name:
            assert default == _value(attribute.default_value)
        elif attribute.required:
            assert default is inspect.Parameter.empty
    required = {name: None for name, a in attributes.items() if a.required}
    needed = sum(i.option == defs.OpSchema.FormalParameterOption.Single for i in schema.inputs)
    for count in {len(schema.inputs), needed}:
        assert converter.misfit([True] * count, required, 1) is None


REFUSED = {
    *("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),  # bytes and strings
    *("CastMap", "CategoryMapper", "DictVectorizer", "ZipMap"),  # maps and strings
}


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml"])
def test_every_version_of_every_op_is_converted_written_out_or_refused_for_its_types(domain: str) -> None:
    missing = {
        (schema.name, schema.since_version)
        for schema in defs.get_all_schemas_with_history()
        if schema.domain == domain and not schema.deprecated and schema.name not in REFUSED
        if not (schema.has_function or schema.has_context_dependent_function)
        if find(domain, schema.name, schema.since_version) is None
    }
    assert missing <= {("LabelEncoder", 1)}  # of strings too


def _of_strings(attribute: str) -> bool:
    """Whether it holds what torch has no tensor for; a converter may still know it."""
    return attribute.endswith(("_string", "_strings"))


def _value(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, float):
        return pytest.approx(value)
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value.decode() if isinstance(value, bytes) else value


def test_the_newest_version_not_above_the_opset_is_chosen() -> None:
    versions = {opset: find("", "Softmax", opset) for opset in (7, 12, 13, 24)}
    assert {opset: c.since for opset, c in versions.items() if c} == {7: 1, 12: 1, 13: 13, 24: 13}


def test_two_names_of_the_standard_domain_are_one() -> None:
    assert find("ai.onnx", "Relu", 17) == find("", "Relu", 17)


def test_an_op_before_its_first_converter_has_none() -> None:
    assert find("", "Trilu", 13) is None


def test_a_second_converter_of_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="Relu-1 has two converters"):
        converts("Relu", since=1, inputs=1)(torch.relu)
