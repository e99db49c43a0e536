"""Types that PyTorch stores and does not compute on, against numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from onnxprune.to_torch import load

TYPES = [np.uint16, np.uint32, np.uint64]
BINARY = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide, "Mod": np.mod,
    "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Equal": np.equal, "Max": np.maximum, "Min": np.minimum,
}  # fmt: skip


def extremes(dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """Both ends, both sides of the signed type's end, and what lies between."""
    top, half = int(np.iinfo(dtype).max), int(np.iinfo(dtype).max) // 2
    drawn = np.random.default_rng(0).integers(0, top, 20, dtype, endpoint=True)
    return np.array([1, 2, 3, half - 1, half, half + 1, top - 1, top, *drawn], dtype)


def run(op: str, *inputs: NDArray[Any], opset: int = 18, **attributes: Any) -> NDArray[Any]:
    code = helper.np_dtype_to_tensor_dtype
    names = [f"x{i}" for i in range(len(inputs))]
    values = zip(names, inputs, strict=True)
    ends = [helper.make_tensor_value_info(n, code(v.dtype), v.shape) for n, v in values]
    result = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g", ends, result)
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
    return np.asarray(module(*map(torch.from_numpy, inputs)).numpy())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", sorted(BINARY))
def test_two_operands_give_what_numpy_gives(op: str, dtype: type[np.unsignedinteger[Any]]) -> None:
    values = extremes(dtype)
    a, b = values[:, None], values
    ours = run(op, a, b)
    want = BINARY[op](a, b)
    assert ours.dtype == want.dtype
    np.testing.assert_array_equal(ours, want)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts_fill_with_zeros(direction: str, dtype: type[np.unsignedinteger[Any]]) -> None:
    values, places = extremes(dtype)[:, None], np.arange(np.iinfo(dtype).bits, dtype=dtype)
    shift = np.left_shift if direction == "LEFT" else np.right_shift
    np.testing.assert_array_equal(run("BitShift", values, places, direction=direction), shift(values, places))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize(
    ("op", "numpy"),
    [("ReduceSum", np.sum), ("ReduceProd", np.prod), ("ReduceMax", np.max), ("ReduceMin", np.min)],
)
def test_reductions_keep_the_type(
    op: str, numpy: Any, opset: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    values = extremes(dtype).reshape(4, 7)
    want = numpy(values, 1, **({"dtype": dtype} if op in ("ReduceSum", "ReduceProd") else {}))
    if opset == 11:
        ours = run(op, values, opset=11, axes=[1], keepdims=0)
    else:
        ours = run(op, values, np.array([1]), keepdims=0)
    np.testing.assert_array_equal(ours, want, strict=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("op", "numpy"), [("ArgMax", np.argmax), ("ArgMin", np.argmin)])
def test_the_largest_and_the_smallest_are_found(
    op: str, numpy: Any, dtype: type[np.unsignedinteger[Any]]
) -> None:
    values = extremes(dtype).reshape(4, 7)
    np.testing.assert_array_equal(run(op, values, axis=1, keepdims=0), numpy(values, 1))


@pytest.mark.parametrize("dtype", TYPES)
def test_single_operands_give_what_numpy_gives(dtype: type[np.unsignedinteger[Any]]) -> None:
    values = np.append(extremes(dtype), dtype(0))
    np.testing.assert_array_equal(run("BitwiseNot", values), np.invert(values))
    np.testing.assert_array_equal(run("Sign", values), np.sign(values))
    np.testing.assert_array_equal(run("Abs", values), values)
    np.testing.assert_array_equal(run("NonZero", values), np.stack(np.nonzero(values)))
    np.testing.assert_array_equal(run("CumSum", values, np.array(0)), np.cumsum(values, dtype=dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_entries_move(dtype: type[np.unsignedinteger[Any]]) -> None:
    table = extremes(dtype).reshape(4, 7)
    np.testing.assert_array_equal(run("Trilu", table), np.triu(table))
    places, updates = np.array([[1], [3]]), table[[2, 0]]
    for how, numpy in (("add", np.add), ("max", np.maximum), ("min", np.minimum)):
        want = table.copy()
        want[[1, 3]] = numpy(want[[1, 3]], updates)
        np.testing.assert_array_equal(run("ScatterND", table, places, updates, reduction=how), want, strict=True)


def test_floats_still_meet_plain_torch_functions() -> None:
    ends = [helper.make_tensor_value_info(n, 1, [2]) for n in "ab"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "g", ends, [helper.make_empty_tensor_value_info("y")]
    )
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert [n.target for n in module.graph.nodes if n.op == "call_function"] == [torch.add]
