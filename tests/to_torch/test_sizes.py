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
