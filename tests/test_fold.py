from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxprune.fold import NEVER, TABLE, evaluate

Arrays = list[np.ndarray | None]
PLENTY = 1 << 16

I = np.int64  # noqa: E741 - reads as the suffix of a number
F = np.float32


def model_of(
    op: str, inputs: Arrays, attributes: dict[str, Any], opset: int, outputs: int = 1
) -> onnx.ModelProto:
    names = ["" if value is None else f"x{k}" for k, value in enumerate(inputs)]
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    made = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, names, made, name="node", **attributes)
    empty = [helper.make_empty_tensor_value_info(name) for name in made]
    return helper.make_model(
        helper.make_graph([node], "one", given, empty),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def folded(
    op: str,
    inputs: Arrays,
    attributes: dict[str, Any] | None = None,
    opset: int = 18,
    *,
    limit: int = PLENTY,
    outputs: int = 1,
) -> list[np.ndarray] | None:
    graph = gs.import_onnx(model_of(op, inputs, attributes or {}, opset, outputs))
    return evaluate(graph.nodes[0], inputs, opset, limit)


def reference(op: str, inputs: Arrays, attributes: dict[str, Any], opset: int) -> list[np.ndarray]:
    feed = {f"x{k}": value for k, value in enumerate(inputs) if value is not None}
    return list(ReferenceEvaluator(model_of(op, inputs, attributes, opset)).run(None, feed))


def ints(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, dtype=I)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(F)


BLOCK = np.arange(24).reshape(2, 3, 4)
TRUTH = np.asarray([True, False, True])
CASES: list[tuple[str, Arrays, dict[str, Any], int]] = [
    ("Add", [ints(1, 2), I(3)], {}, 18),
    ("And", [TRUTH, np.asarray([True, True, False])], {}, 18),
    ("Cast", [np.asarray([1.7, -1.7, 0.0], F)], {"to": TensorProto.INT64}, 18),
    ("Cast", [ints(0, 1, -3)], {"to": TensorProto.BOOL}, 18),
    ("Cast", [ints(3, 1)], {"to": TensorProto.FLOAT16}, 18),
    ("Cast", [TRUTH], {"to": TensorProto.FLOAT}, 13),
    ("Ceil", [np.asarray([1.2, -1.2], F)], {}, 18),
    ("Concat", [ints(1), ints(2, 3)], {"axis": 0}, 18),
    ("Concat", [BLOCK, BLOCK], {"axis": -1}, 18),
    ("ConstantOfShape", [ints(2, 3)], {}, 18),
    ("ConstantOfShape", [ints()], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}, 18),
    ("Div", [ints(7, -7, 7, -7, 6), ints(2, 2, -2, -2, 3)], {}, 18),
    ("Div", [np.asarray([1, 2], F), np.asarray([3], F)], {}, 18),
    ("Equal", [ints(1, 2, 3), I(2)], {}, 18),
    ("Expand", [ints(5), ints(2, 3)], {}, 18),
    ("Expand", [np.arange(6).reshape(2, 1, 3), ints(4, 1)], {}, 18),
    ("Expand", [np.asarray([[True], [False]]), ints(2, 2)], {}, 18),
    ("Floor", [np.asarray([1.2, -1.2], F)], {}, 18),
    ("Gather", [BLOCK, ints(-1, 0)], {"axis": 1}, 18),
    ("Gather", [BLOCK, np.asarray(1, np.int32)], {}, 18),
    ("Gather", [BLOCK, np.asarray([[0, 1], [3, -2]])], {"axis": -1}, 18),
    ("Greater", [ints(1, 2, 3), I(2)], {}, 18),
    ("Identity", [BLOCK], {}, 18),
    ("Less", [ints(1, 2, 3), I(2)], {}, 18),
    ("Max", [ints(1, 5, 3), ints(2, 4, 9)], {}, 18),
    ("Max", [ints(1, 5, 3), I(2), ints(4)], {}, 18),
    ("Min", [ints(1, 5, 3)], {}, 18),
    ("Min", [np.asarray([1.0, np.nan], F), F(0)], {}, 18),
    ("Mul", [ints(1, 2), I(3)], {}, 18),
    ("Neg", [ints(1, -2)], {}, 18),
    ("Not", [TRUTH], {}, 18),
    ("Range", [I(10), I(1), I(-3)], {}, 18),
    ("Range", [F(0), F(1), F(0.3)], {}, 18),
    ("Range", [I(3), I(1), I(1)], {}, 18),
    ("ReduceProd", [BLOCK + 1], {"axes": [0, -1], "keepdims": 0}, 13),
    ("ReduceProd", [BLOCK + 1, ints(1)], {}, 18),
    ("ReduceProd", [BLOCK[0] + 1], {"keepdims": 0}, 18),
    ("ReduceProd", [BLOCK[0] + 1, None], {"noop_with_empty_axes": 1}, 18),
    ("ReduceProd", [BLOCK[0] + 1, ints()], {}, 18),
    ("Reshape", [BLOCK, ints(0, -1)], {}, 18),
    ("Reshape", [np.zeros((0, 3), F), ints(3, 0)], {"allowzero": 1}, 18),
    ("Slice", [BLOCK, ints(1), ints(3), ints(-1)], {}, 18),
    ("Slice", [BLOCK, ints(-1), ints(-(2**63)), ints(2), ints(-1)], {}, 18),
    ("Slice", [BLOCK, ints(3), ints(-5), ints(2), ints(-2)], {}, 18),
    ("Slice", [BLOCK, ints(0, 1), ints(1, 2**62)], {}, 18),
    ("Slice", [BLOCK], {"starts": [1], "ends": [-1], "axes": [1]}, 9),
    ("Slice", [BLOCK, ints(0), ints(4), None, ints(2)], {}, 18),
    ("Sqrt", [np.asarray([4, 2], F)], {}, 18),
    ("Squeeze", [BLOCK[:1, :1]], {}, 18),
    ("Squeeze", [BLOCK[:1, :1], ints(-2)], {}, 18),
    ("Squeeze", [BLOCK[:1, :1]], {"axes": [0]}, 11),
    ("Sub", [ints(1, 2), I(3)], {}, 18),
    ("Transpose", [BLOCK], {"perm": [2, 0, 1]}, 18),
    ("Transpose", [BLOCK], {}, 18),
    ("Unsqueeze", [ints(1, 2), ints(0, -1)], {}, 18),
    ("Unsqueeze", [I(5)], {"axes": [0]}, 11),
    ("Where", [TRUTH, ints(1, 2, 3), I(0)], {}, 18),
]
OTHERS: list[tuple[str, Arrays, dict[str, Any], int]] = [
    ("MatMul", [floats(2, 3), floats(3, 4)], {}, 18),
    ("Pow", [floats(2, 3), F(2)], {}, 18),
    ("ReduceMean", [floats(2, 3), ints(1)], {}, 18),
    ("Clip", [floats(5), None, F(0.1)], {}, 18),
    ("Pad", [floats(2, 3), ints(0, 1, 0, 2)], {}, 18),
    ("Flatten", [floats(2, 3, 4)], {"axis": 2}, 18),
    ("Tile", [ints(1, 2), ints(3)], {}, 18),
]


def title(case: tuple[str, Arrays, dict[str, Any], int]) -> str:
    return f"{case[0]}-{case[3]}"


@pytest.mark.parametrize("case", [*CASES, *OTHERS], ids=title)
def test_a_folded_value_is_the_specifications(case: tuple[str, Arrays, dict[str, Any], int]):
    op, inputs, attributes, opset = case
    made = folded(op, inputs, attributes, opset)
    assert made is not None, "was not folded"
    (expected,) = reference(op, inputs, attributes, opset)
    assert made[0].dtype == expected.dtype
    assert made[0].shape == np.shape(expected)
    np.testing.assert_allclose(made[0], expected, rtol=1e-6)


def test_every_op_of_the_table_has_a_case():
    assert {case[0] for case in CASES} == set(TABLE)


def test_integer_division_goes_towards_zero():
    """As C's does, and the runtime's; numpy's goes down."""
    made = folded("Div", [ints(-7), ints(2)])
    assert made is not None and made[0].tolist() == [-3]


def test_small_floats_can_be_cast():
    made = folded("Cast", [np.asarray([1.5], F)], {"to": TensorProto.BFLOAT16})
    assert made is not None and made[0].dtype == ml_dtypes.bfloat16


def test_several_outputs_are_all_told():
    made = folded("Split", [ints(1, 2, 3), ints(1, 2)], outputs=2)
    assert made is not None and [part.tolist() for part in made] == [[1], [2, 3]]


# ---- what is left alone


@pytest.mark.parametrize(
    "op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"]
)
def test_random_ops_are_never_folded(op: str):
    assert op in NEVER
    assert folded(op, [np.full((2, 3), 0.5, F)]) is None


def test_quantised_weights_keep_their_small_form():
    assert folded("DequantizeLinear", [np.ones((2, 2), np.int8), F(0.1)]) is None


def test_ops_of_other_domains_are_never_folded():
    node = gs.Node(
        "Add", "n", inputs=[gs.Variable("a"), gs.Variable("b")], outputs=[gs.Variable("y")], domain="acme"
    )
    assert evaluate(node, [ints(1), ints(2)], 18, PLENTY) is None


@pytest.mark.parametrize(
    ("op", "inputs"),
    [("Nonsense", [ints(1)]), ("Reshape", [ints(1, 2, 3), ints(2, 2)]), ("Gather", [ints(1), I(9)])],
)
def test_what_cannot_be_evaluated_is_left_and_no_error(op: str, inputs: Arrays):
    assert folded(op, inputs) is None


HUGE = 2**42
GIANTS: list[tuple[str, Arrays, dict[str, Any]]] = [
    ("ConstantOfShape", [ints(HUGE)], {}),
    ("ConstantOfShape", [ints(2**32, 2**32)], {}),
    ("Expand", [ints(1), ints(HUGE)], {}),
    ("Expand", [np.zeros((PLENTY, 1), I), ints(1, PLENTY)], {}),
    ("Tile", [ints(1, 2), ints(HUGE)], {}),
    ("Range", [I(0), I(HUGE), I(1)], {}),
    ("Range", [I(0), I(1), I(0)], {}),
    ("Range", [F(0), F(1e12), F(1e-3)], {}),
    ("Add", [np.zeros((PLENTY, 1), I), np.zeros(PLENTY, I)], {}),
    ("Equal", [np.zeros((PLENTY, 1), I), np.zeros(PLENTY, I)], {}),
    ("Where", [np.ones((PLENTY, 1), bool), np.zeros(PLENTY, I), I(0)], {}),
    ("Gather", [np.zeros((2, PLENTY), I), np.zeros(PLENTY, I)], {}),
    ("MatMul", [np.zeros((PLENTY, 1), F), np.zeros((1, PLENTY), F)], {}),
    ("Pow", [np.zeros((PLENTY, 1), F), np.zeros(PLENTY, F)], {}),
    ("Pad", [floats(2), ints(0, HUGE)], {}),
    ("OneHot", [ints(1), I(HUGE), ints(0, 1)], {}),
    ("Resize", [floats(1, 1, 2), None, np.asarray([1, 1, 2.0**41], F)], {}),
]


@pytest.mark.parametrize("case", GIANTS, ids=lambda case: case[0])
def test_small_inputs_never_make_a_giant(
    case: tuple[str, Arrays, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """Not even for a moment: the size is known before anything is computed."""
    op, inputs, attributes = case
    monkeypatch.setattr("onnxprune.fold._compute", lambda *_: pytest.fail("was computed"))
    assert folded(op, inputs, attributes) is None


@pytest.mark.parametrize(("limit", "made"), [(6, True), (5, False)])
@pytest.mark.parametrize(
    ("op", "inputs"),
    [("Add", [ints(1, 2, 3), np.ones((2, 1), I)]), ("Concat", [ints(1, 2, 3), ints(4, 5, 6)])],
)
def test_the_limit_counts_entries(op: str, inputs: Arrays, limit: int, made: bool):
    assert (folded(op, inputs, {"axis": 0} if op == "Concat" else {}, limit=limit) is not None) is made
