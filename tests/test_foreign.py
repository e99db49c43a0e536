"""Shapes of ops that onnx does not know."""

from collections.abc import Iterator

import onnx
import pytest

from onnxprune import model
from onnxprune.errors import ModelError
from onnxprune.shapes import Shapes, infer
from onnxprune.shapes.binding import BATCH
from onnxprune.shapes.foreign import SHAPES, Call, Sizes, shapes


@pytest.fixture(autouse=True)
def halving() -> Iterator[None]:
    """An op `test.Halve` that halves the last axis, and has another output of one axis."""

    @shapes("Halve", domain="test", like=1)
    def halve(node: Call) -> list[Sizes]:
        first = node.shape(0)
        return [(*first[:-1], first[-1] // node.attr("by", 2)), (7,)]

    yield
    del SHAPES["test", "Halve"]


def inferred(graph: str) -> Shapes:
    text = f'<ir_version: 8, opset_import: ["": 18, "test": 1]> {graph}'
    return infer(model.load(onnx.parser.parse_model(text)).graph)


def test_what_lies_behind_such_an_op_is_known():
    found = inferred("net (float[N,6] x, float16[1] z) => (float16[a,b] y) { h = test.Halve(x, z)  y = Relu(h) }")
    assert found.sizes["y"] == (BATCH, (3, 3))
    assert found.types["h"] == found.types["y"] == onnx.TensorProto.FLOAT16


def test_attributes_and_several_outputs_count():
    found = inferred("net (float[2,6] x, float[1] z) => (float[a] y) { h, y = test.Halve<by: int = 3>(x, z) }")
    assert found.sizes["h"] == ((2, 2), (2, 2)) and found.sizes["y"] == ((7, 7),)


def test_a_choice_among_quantised_values_is_shaped_as_where():
    operands = "uint8[2,1,5] x, float s, uint8 z, uint8[2,4,5] w, float t, uint8 v, float q, uint8 p"
    call = "y = com.microsoft.QLinearWhere(c, x, s, z, w, t, v, q, p)"
    text = f"case (bool[2,4,1] c, {operands}) => (uint8[a,b,c] y) {{ {call} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]> {text}')
    assert infer(model.load(proto).graph).sizes["y"] == ((2, 2), (4, 4), (5, 5))


def test_a_missing_output_is_left_out():
    found = inferred('net (float[2,6] x, float[1] z) => (float[a] y) { "", y = test.Halve(x, z) }')
    assert found.sizes["y"] == ((7, 7),)


@pytest.mark.parametrize("call", ["test.Unheard(x, z)", 'test.Halve("", z)', "test.Halve(x)"])
def test_what_is_not_known_stays_unknown(call: str):
    found = inferred(f"net (float[2,6] x, float[1] z) => (float[a] y) {{ h = {call}  y = Relu(h) }}")
    assert "h" not in found.sizes and "y" not in found.sizes


def test_behind_an_unknown_element_type_nothing_is_known():
    found = inferred("net (float[2,6] x) => (float[a,b] y) { u = test.Unheard(x)  h = test.Halve(x, u)  y = Relu(h) }")
    assert "h" not in found.sizes


def test_onnx_forgets_the_op_afterwards():
    """Else the checker would hold everybody's nodes of that name against it."""
    inferred("net (float[2,6] x, float[1] z) => (float[a,b] y) { y = test.Halve(x, z) }")
    assert not onnx.defs.has("Halve", domain="test")


def test_an_op_has_one_shape_function():
    with pytest.raises(ValueError, match="two shape functions"):
        shapes("Halve", domain="test")(lambda node: [])


@pytest.mark.parametrize(("opset", "op"), [(14, "LayerNormalization"), (17, "SimplifiedLayerNormalization")])
def test_norms_that_onnxruntime_puts_into_onnxs_own_domain_are_let_in(opset: int, op: str):
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> net (float[N,5,6] x, float[6] s) => (float[N,5,6] y) {{
        h = {op}<axis: int = -1, epsilon: float = 0.1>(x, s)  y = Relu(h)
    }}"""
    found = infer(model.load(onnx.parser.parse_model(text)).graph)
    assert found.sizes["y"] == (BATCH, (5, 5), (6, 6))
    assert not onnx.defs.has(op, opset, "")


def test_ops_that_nobody_knows_are_refused_in_onnxs_own_domain():
    text = '<ir_version: 8, opset_import: ["": 18]> net (float[N,6] x) => (float[N,6] y) { y = Unheard(x) }'
    with pytest.raises(ModelError, match="No Op registered for Unheard"):
        model.load(onnx.parser.parse_model(text))
