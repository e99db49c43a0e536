from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from onnxprune.labels import Atoms, GridLabels, Statements, solve

WHY_GRID, WHY_FIRST, WHY_SECOND = 100, 1, 2


def grid(whole: np.ndarray, *factors: np.ndarray, because: int = WHY_GRID) -> GridLabels:
    return GridLabels(whole.reshape([len(f) for f in factors]), factors, because)


def partition(atoms: Atoms, labels: np.ndarray) -> list[list[int]]:
    """Positions of these labels by atom."""
    of = atoms.of[labels].tolist()
    return [[k for k, atom in enumerate(of) if atom == found] for found in dict.fromkeys(of)]


def free(atoms: Atoms, labels: np.ndarray) -> list[bool]:
    return (atoms.because[atoms.of[labels]] < 0).tolist()


# ---- equalities and freezing


def test_labels_of_which_nothing_is_said_go_one_by_one():
    said = Statements()
    labels = said.fresh(3)
    atoms = solve(said)
    assert atoms.count == 3
    assert free(atoms, labels) == [True] * 3


def test_fresh_labels_are_never_given_twice():
    said = Statements()
    assert np.concatenate([said.fresh(2), said.fresh(0), said.fresh(3)]).tolist() == [0, 1, 2, 3, 4]


def test_equality_passes_along_chains():
    said = Statements()
    a, b, c = said.fresh(3), said.fresh(3), said.fresh(3)
    said.equal += [(a, b), (b, c)]
    assert partition(solve(said), np.concatenate([a, b, c])) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_equality_may_pair_entries_in_any_order():
    said = Statements()
    a, b = said.fresh(3), said.fresh(3)
    said.equal.append((a, b[[2, 0, 1]]))
    assert partition(solve(said), np.concatenate([a, b])) == [[0, 5], [1, 3], [2, 4]]


def test_one_frozen_entry_freezes_what_is_equal_to_it_and_nothing_else():
    said = Statements()
    a, b = said.fresh(3), said.fresh(3)
    said.equal.append((a, b))
    said.frozen.append((b[1:2], WHY_FIRST))
    atoms = solve(said)
    assert free(atoms, a) == [True, False, True]
    assert atoms.because[atoms.of[a[1]]] == WHY_FIRST


@pytest.mark.parametrize("turn", [1, -1])
def test_the_first_of_several_reasons_is_kept(turn: int):
    said = Statements()
    a = said.fresh(2)
    said.frozen += [(a, WHY_SECOND), (a[:1], WHY_FIRST)][::turn]
    atoms = solve(said)
    assert atoms.because[atoms.of[a]].tolist() == [WHY_FIRST, WHY_SECOND]


# ---- grids


def said_grid(rows: int = 2, columns: int = 3) -> tuple[Statements, np.ndarray, np.ndarray, np.ndarray]:
    said = Statements()
    whole, row, column = said.fresh(rows * columns), said.fresh(rows), said.fresh(columns)
    said.grids.append(grid(whole, row, column))
    return said, whole, row, column


def test_a_grid_of_two_live_factors_is_kept_as_an_or():
    said, whole, row, column = said_grid()
    atoms = solve(said)
    expected = {
        int(atoms.of[whole[3 * i + j]]): tuple(sorted((int(atoms.of[row[i]]), int(atoms.of[column[j]]))))
        for i in range(2)
        for j in range(3)
    }
    assert atoms.derived == expected
    assert all(free(atoms, np.concatenate([whole, row, column])))


@pytest.mark.parametrize(
    ("dead", "together"), [("column", [[0, 1, 2], [3, 4, 5]]), ("row", [[0, 3], [1, 4], [2, 5]])]
)
def test_a_grid_of_one_live_factor_becomes_an_equality(dead: str, together: list[list[int]]):
    said, whole, row, column = said_grid()
    live = row if dead == "column" else column
    said.frozen.append((column if dead == "column" else row, WHY_FIRST))
    atoms = solve(said)
    assert not atoms.derived
    assert all(free(atoms, whole))
    assert partition(atoms, whole) == together
    assert atoms.of[live].tolist() == [int(atoms.of[whole[found[0]]]) for found in together]


def test_a_grid_without_live_factors_is_frozen_for_their_reason():
    said, whole, row, column = said_grid()
    said.frozen += [(row, WHY_SECOND), (column, WHY_FIRST)]
    atoms = solve(said)
    assert atoms.because[atoms.of[whole]].tolist() == [WHY_FIRST] * 6


def test_a_frozen_entry_keeps_all_of_its_factors():
    said, whole, row, column = said_grid()
    said.frozen.append((whole[4:5], WHY_FIRST))  # row 1, column 1
    atoms = solve(said)
    assert free(atoms, row) == [True, False]
    assert free(atoms, column) == [True, False, True]
    assert free(atoms, whole) == [True, True, True, True, False, True]
    assert int(atoms.of[whole[4]]) not in atoms.derived


def test_a_combination_of_frozen_factor_entries_stays():
    said, whole, row, column = said_grid()
    said.frozen += [(row[:1], WHY_FIRST), (column[:1], WHY_SECOND)]
    atoms = solve(said)
    assert free(atoms, whole) == [False, True, True, True, True, True]


def test_a_grid_of_three_factors_goes_by_any_of_them():
    said = Statements()
    whole, a, b, c = said.fresh(8), said.fresh(2), said.fresh(2), said.fresh(2)
    said.grids.append(grid(whole, a, b, c))
    atoms = solve(said)
    assert atoms.derived[int(atoms.of[whole[5]])] == tuple(
        sorted(int(atoms.of[label]) for label in (a[1], b[0], c[1]))
    )


def test_two_groupings_of_one_shape_become_the_same_grouping():
    said, whole, row, column = said_grid()
    rows2, columns2 = said.fresh(2), said.fresh(3)
    said.grids.append(grid(whole, rows2, columns2))
    atoms = solve(said)
    assert atoms.of[row].tolist() == atoms.of[rows2].tolist()
    assert atoms.of[column].tolist() == atoms.of[columns2].tolist()
    assert len(atoms.derived) == 6


def test_two_groupings_of_another_shape_cannot_both_be():
    said, whole, row, column = said_grid(2, 3)
    rows2, columns2 = said.fresh(3), said.fresh(2)
    said.grids.append(grid(whole, rows2, columns2, because=WHY_SECOND))
    atoms = solve(said)
    assert not any(free(atoms, np.concatenate([whole, row, column, rows2, columns2])))
    assert atoms.because[atoms.of[whole[0]]] == WHY_SECOND


def test_a_factor_along_which_all_entries_are_alike_stays_and_the_others_go():
    """Directions of a recurrent layer lose the same channels, whatever splits them apart later."""
    said, whole, row, column = said_grid(2, 3)
    said.equal.append((whole[:3], whole[3:]))
    atoms = solve(said)
    assert partition(atoms, np.concatenate([whole, column])) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert free(atoms, column) == [True] * 3
    assert free(atoms, row) == [False] * 2


@pytest.mark.parametrize("stays", [True, False])
def test_such_a_factor_beside_two_others_leaves_them_a_grid(stays: bool):
    said = Statements()
    alike, row, column, whole = said.fresh(2), said.fresh(2), said.fresh(3), said.fresh(12)
    said.grids.append(grid(whole, alike, row, column))
    said.equal.append((whole[:6], whole[6:]))
    said.frozen += [(alike, WHY_FIRST)] * stays
    atoms = solve(said)
    assert free(atoms, np.concatenate([row, column])) == [True] * 5
    assert atoms.derived[int(atoms.of[whole[4]])] == tuple(sorted(atoms.of[[row[1], column[1]]].tolist()))


def test_derived_atoms_come_after_the_factors_they_follow():
    said = Statements()
    outer, inner = said.fresh(8), said.fresh(4)
    a, b, c = said.fresh(2), said.fresh(2), said.fresh(2)
    said.grids += [grid(outer, inner, c), grid(inner, a, b)]  # the outer one is stated first
    atoms = solve(said)
    order = list(atoms.derived)
    assert len(order) == 12
    assert all(
        f not in atoms.derived or order.index(f) < order.index(atom)
        for atom, fs in atoms.derived.items()
        for f in fs
    )


def test_grids_that_go_in_a_circle_are_frozen():
    said = Statements()
    a, b, c, d = said.fresh(4), said.fresh(2), said.fresh(4), said.fresh(2)
    said.grids += [grid(a, b, c[:2]), grid(c, d, a[:2])]
    atoms = solve(said)
    assert not atoms.derived
    assert not any(free(atoms, np.concatenate([a, c])))


# ---- whatever is said, what comes out obeys it


def drawn_labels(draw: st.DrawFn, count: int, size: int) -> np.ndarray:
    return np.asarray(draw(st.lists(st.integers(0, count - 1), min_size=size, max_size=size)), dtype=np.int64)


@st.composite
def statements(draw: st.DrawFn) -> Statements:
    said = Statements()
    count = len(said.fresh(draw(st.integers(4, 24))))
    for _ in range(draw(st.integers(0, 3))):
        size = draw(st.integers(1, 4))
        said.equal.append((drawn_labels(draw, count, size), drawn_labels(draw, count, size)))
    for reason in range(draw(st.integers(0, 2))):
        said.frozen.append((drawn_labels(draw, count, draw(st.integers(1, 2))), reason))
    for number in range(draw(st.integers(0, 3))):
        shape = draw(st.sampled_from([(2, 2), (2, 3), (3, 2), (2, 2, 2)]))
        factors = [drawn_labels(draw, count, n) for n in shape]
        said.grids.append(grid(drawn_labels(draw, count, int(np.prod(shape))), *factors, because=10 + number))
    return said


def gone(atoms: Atoms, chosen: Sequence[bool]) -> np.ndarray:
    """Per label whether it goes, where the free atoms of these positions are removed."""
    removed = (atoms.because < 0) & np.asarray(chosen[: atoms.count])
    for atom, follows in atoms.derived.items():
        removed[atom] = removed[list(follows)].any()
    return removed[atoms.of]


@given(statements(), st.lists(st.booleans(), min_size=24, max_size=24))
def test_every_removal_keeps_every_statement(said: Statements, chosen: list[bool]):
    atoms = solve(said)
    removed = gone(atoms, chosen)
    assert all((removed[a] == removed[b]).all() for a, b in said.equal)
    assert not any(removed[labels].any() for labels, _ in said.frozen)
    for one in said.grids:
        spread = np.zeros(one.whole.shape, dtype=bool)
        for axis, factor in enumerate(one.factors):
            spread |= removed[factor].reshape([-1 if k == axis else 1 for k in range(one.whole.ndim)])
        assert (removed[one.whole] == spread).all()


@given(statements())
def test_an_atom_stays_or_is_free_or_follows_never_two_of_these(said: Statements):
    atoms = solve(said)
    assert all(atoms.because[atom] < 0 for atom in atoms.derived)
    assert sorted(set(atoms.of.tolist())) == list(range(atoms.count))
