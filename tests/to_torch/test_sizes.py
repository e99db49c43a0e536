import numpy as np
import pytest
import torch
from onnx import helper
from small import draw, in_onnxruntime, in_torch, model

from onnxprune.to_torch import load, sizes

NODE = helper.make_node


@pytest.mark.parametrize(
    ("a", "b", "quotient"), [(7, 2, 3), (-7, 2, -3), (7, -2, -3), (-7, -2, 3), (0, 5, 0)]
)
def test_division_goes_towards_zero(a: int, b: int, quotient: int) -> None:
    assert sizes.quotient(a, b) == quotient


def test_rules_broadcast_single_entries() -> None:
    assert sizes.RULES["Mul"]([2, 3], 4) == [8, 12]
    assert sizes.RULES["Add"]([2, 3], [1]) == [3, 4]
    assert sizes.RULES["Where"]([1, 0], [5, 6], [7]) == [5, 7]
    assert sizes.RULES["Max"](2, 3, 1) == 3


def test_tables_are_sliced_by_rows_turned_and_flattened() -> None:
    table = sizes.reshape([1, 2, 3, 4, 5, 6], [-1, 2][::-1])
    assert table == [[1, 2, 3], [4, 5, 6]]
    assert sizes.slice_(table, [-1], [-9], [0], [-1]) == [[4, 5, 6], [1, 2, 3]]
    assert sizes.reshape(sizes.transpose(table, perm=(1, 0)), [-1]) == [1, 4, 2, 5, 3, 6]


def test_what_descends_from_a_shape_holds_no_tensors() -> None:
    """(N, 6, 4) -> (N, 2, 12) by arithmetic on the shape alone."""
    nodes = [
        NODE("Shape", ["x"], ["shape"]),
        NODE("Slice", ["shape", "zero", "one"], ["batch"]),
        NODE("Slice", ["shape", "one", "two"], ["channels"]),
        NODE("Div", ["channels", "three"], ["groups"]),
        NODE("Concat", ["batch", "groups", "minus"], ["target"], axis=0),
        NODE("Reshape", ["x", "target"], ["y"]),
    ]
    values = {n: np.array([v]) for n, v in {"zero": 0, "one": 1, "two": 2, "three": 3, "minus": -1}.items()}
    made = model(nodes, {"x": ["N", "C", 4]}, ["y"], values)
    module = load(made)
    assert not any(n.target is sizes.tensor for n in module.graph.nodes)
    assert not list(module.buffers())
    for batch in (1, 3):
        x = draw(batch, 6, 4)
        np.testing.assert_array_equal(in_torch(module, x)[0], in_onnxruntime(made, x)[0])


def test_sizes_become_tensors_where_tensors_are_asked_for() -> None:
    nodes = [NODE("Shape", ["x"], ["s"]), NODE("Cast", ["s"], ["f"], to=1), NODE("Mul", ["f", "f"], ["y"])]
    made = model(nodes, {"x": ["N", "C"]}, ["y"])
    np.testing.assert_array_equal(in_torch(load(made), draw(2, 3))[0], [4, 9])


def test_sizes_that_the_file_fixes_are_constants_but_the_batch_stays_open() -> None:
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "first"], ["n"]),
        NODE("Gather", ["s", "last"], ["w"]),
        NODE("Concat", ["n", "w", "minus"], ["target"], axis=0),
        NODE("Reshape", ["x", "target"], ["y"]),
    ]
    values = {"first": np.array([0]), "last": np.array([-1]), "minus": np.array([-1])}
    module = load(model(nodes, {"x": [2, 3, 4]}, ["y"], values))
    assert len([n for n in module.graph.nodes if n.target is sizes.gather]) == 1
    assert module(torch.zeros(5, 3, 4)).shape == (5, 4, 3)


def test_no_sizes_broadcast_to_none() -> None:
    assert sizes.RULES["Add"]([], 1) == []
    assert sizes.RULES["Equal"]([3], []) == []


def test_slices_take_bounds_from_attributes_too() -> None:
    assert sizes.RULES["Slice"]([2, 3, 4, 5], starts=(1,), ends=(3,), axes=(0,)) == [3, 4]


def test_a_number_is_rounded_as_float32_rounds_it() -> None:
    for x in (*np.random.default_rng(0).normal(0, 1000, 500), 0.0, 1 / 3, -7 * np.float32(0.7), 2.0**24 + 1):
        assert sizes.single(float(x)) == np.float32(x)


def test_fractions_of_sizes_are_those_of_float32_traced_too() -> None:
    """The pads that keep ceil(width / 3) windows, as networks from TensorFlow compute them, on any width."""
    nodes = [
        NODE("Shape", ["x"], ["shape"]),
        NODE("Gather", ["shape", "last"], ["width"]),
        NODE("Cast", ["width"], ["w"], to=1),
        NODE("Div", ["w", "stride"], ["windows"]),
        NODE("Ceil", ["windows"], ["whole"]),
        NODE("Sub", ["whole", "one"], ["before"]),
        NODE("Mul", ["before", "stride"], ["covered"]),
        NODE("Add", ["covered", "kernel"], ["needed"]),
        NODE("Sub", ["needed", "w"], ["missing"]),
        NODE("Clip", ["missing", "zero", ""], ["pad"]),
        NODE("Div", ["pad", "two"], ["half"]),
        NODE("Cast", ["half"], ["left"], to=7),
        NODE("Cast", ["left"], ["left_"], to=1),
        NODE("Sub", ["pad", "left_"], ["right_"]),
        NODE("Cast", ["right_"], ["right"], to=7),
        *(NODE("Unsqueeze", [side, "axis"], [f"{side}s"]) for side in ("left", "right")),
        NODE("Concat", ["none", "lefts", "none", "rights"], ["pads"], axis=0),
        NODE("Pad", ["x", "pads"], ["y"]),
    ]
    numbers = {"stride": 3, "one": 1, "kernel": 5, "zero": 0, "two": 2}
    values = {name: np.float32(v) for name, v in numbers.items()} | {
        "last": np.array(2), "axis": np.array([0]), "none": np.array([0, 0]),
    }  # fmt: skip
    made = model(nodes, {"x": ["N", 2, "W"]}, ["y"], values)
    module = load(made)
    assert not any(n.target is sizes.tensor for n in module.graph.nodes)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for width in range(2, 12):
        x = draw(2, 2, width)
        (expected,) = in_onnxruntime(made, x)
        np.testing.assert_array_equal(in_torch(module, x)[0], expected)
        np.testing.assert_array_equal(in_torch(compiled, x)[0], expected)


@pytest.mark.parametrize("number", [0.7, 0.1])
def test_numbers_that_no_few_digits_hold_stay_tensors(number: float) -> None:
    """floor(10 * 0.7) is 7 in float32, whose nearest numbers are below 0.7, and 6 with more digits."""
    nodes = [
        NODE("Size", ["x"], ["n"]),
        NODE("Cast", ["n"], ["f"], to=1),
        NODE("Mul", ["f", "number"], ["product"]),
        NODE("Floor", ["product"], ["y"]),
    ]
    made = model(nodes, {"x": ["N"]}, ["y"], {"number": np.float32(number)})
    module = load(made)
    for size in range(1, 60):
        x = draw(size)
        assert in_torch(module, x)[0] == in_onnxruntime(made, x)[0]


def test_a_table_of_floats_that_a_size_reads_stays_a_tensor() -> None:
    nodes = [NODE("Size", ["x"], ["n"]), NODE("Gather", ["table", "n"], ["y"])]
    made = model(nodes, {"x": ["N"]}, ["y"], {"table": np.arange(6, dtype=np.float32)})
    module = load(made)
    assert module.get_parameter("table").requires_grad
    assert module(torch.zeros(4)).item() == 4
