"""Inverses and solutions of positive definite matrices, and of those that rounding has left indefinite."""

import numpy as np
import pytest

from onnxprune.recovery.definite import SMALL, inverted, solved


@pytest.mark.parametrize("rows", [3, SMALL - 1, SMALL, 2 * SMALL + 1])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("definite", [True, False])
def test_they_are_what_they_should_be(rows: int, blocks: int, definite: bool):
    rng = np.random.default_rng(rows)
    basis = np.linalg.qr(rng.normal(size=(blocks, rows, rows)))[0]
    values = rng.uniform(0.1, 2, (blocks, rows))
    if not definite:
        values[:, 0] = -0.01
    matrices = np.einsum("bik,bk,bjk->bij", basis, values, basis)
    matrices = (matrices + matrices.transpose(0, 2, 1)) / 2
    before, right = matrices.copy(), rng.normal(size=(blocks, rows, 4))
    found = inverted(matrices)
    np.testing.assert_allclose(found, found.transpose(0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(matrices @ found, np.broadcast_to(np.eye(rows), matrices.shape), atol=1e-9)
    np.testing.assert_allclose(matrices @ solved(matrices, right), right, atol=1e-9)
    np.testing.assert_array_equal(matrices, before)


@pytest.mark.parametrize("rows", [2, SMALL])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_holds_no_numbers_gives_none(rows: int, value: float):
    sound = np.eye(rows)[None]
    matrices = sound.copy()
    matrices[0, 0, 0] = matrices[0, 1, 0] = matrices[0, 0, 1] = value
    assert not np.isfinite(inverted(matrices)).all()
    assert not np.isfinite(solved(matrices, np.ones((1, rows, 1)))).all()
    assert not np.isfinite(solved(sound, np.full((1, rows, 1), value))).any()


@pytest.mark.parametrize("rows", [2, SMALL])
def test_what_has_no_inverse_is_refused(rows: int):
    with pytest.raises(np.linalg.LinAlgError):
        inverted(np.zeros((1, rows, rows)))
    with pytest.raises(np.linalg.LinAlgError):
        solved(np.zeros((1, rows, rows)), np.ones((1, rows, 1)))
