"""Sums for least squares, gathered batch by batch."""

import numpy as np
import pytest

from onnxprune.recovery.moments import RIDGE, SCARCE, Moments, damped

RNG = np.random.default_rng(0)
U = (RNG.normal(size=(2, 300, 4)) + 3).astype(np.float32)
T = (RNG.normal(size=(2, 300, 3)) - 1).astype(np.float32)


def gathered(sizes: tuple[int, ...]) -> Moments:
    found = Moments()
    for u, t in zip(np.split(U, sizes, axis=1), np.split(T, sizes, axis=1), strict=True):
        found.add(u, t)
    return found


@pytest.mark.parametrize("sizes", [(), (1, 7, 250)], ids=["one batch", "batches of several sizes"])
def test_moments_are_those_of_all_batches_together(sizes: tuple[int, ...]):
    found = gathered(sizes)
    assert found.count == 300
    for block in range(2):
        u, t = U[block].astype(float), T[block].astype(float)
        both = np.cov(np.hstack([u, t]).T, bias=True)
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(found.covariance(centred=True)[block], both[:4, :4], **close)
        np.testing.assert_allclose(found.cross(centred=True)[block], both[:4, 4:], **close)
        np.testing.assert_allclose(found.covariance(centred=False)[block], u.T @ u / 300, **close)
        np.testing.assert_allclose(found.cross(centred=False)[block], u.T @ t / 300, **close)
        np.testing.assert_allclose(found.mean()[block], u.mean(axis=0), **close)
        np.testing.assert_allclose(found.target()[block], t.mean(axis=0), **close)


def test_sums_do_not_lose_digits_over_many_batches():
    found = Moments()
    for _ in range(2000):
        found.add(np.full((1, 1, 1), 1000.1, dtype=np.float32))
    assert found.uu.dtype == np.float64
    assert found.covariance(centred=False)[0, 0, 0] == pytest.approx(float(np.float32(1000.1)) ** 2, rel=1e-7)


def test_positions_that_hold_no_numbers_are_left_out():
    u, t = U.copy(), T.copy()
    u[0, 5, 2], u[1, 9, 0], t[1, 11, 1] = np.nan, np.inf, np.nan
    found, others = Moments(), Moments()
    found.add(u, t)
    sound = np.delete(np.arange(300), [5, 9, 11])
    others.add(U[:, sound], T[:, sound])
    assert found.count == 297
    for name in ("u", "t", "uu", "ut"):
        np.testing.assert_allclose(getattr(found, name), getattr(others, name), rtol=1e-6)


def test_moments_take_the_same_room_for_any_number_of_batches():
    def room(found: Moments) -> int:
        return sum(getattr(found, name).nbytes for name in ("u", "t", "uu", "ut"))

    assert room(gathered(())) == room(gathered(tuple(range(1, 300))))


def test_a_damped_covariance_can_be_inverted():
    singular = np.ones((2, 4, 4))
    singular[1] = 0
    found = damped(singular, 10**9)
    np.testing.assert_allclose(found[0], 1 + RIDGE * np.eye(4))
    assert (np.linalg.eigvalsh(found) > 0).all()


def test_few_samples_are_trusted_less():
    covariance = np.eye(4)[None]
    np.testing.assert_allclose(damped(covariance, 8), (1 + SCARCE / 2) * covariance)
    np.testing.assert_allclose(damped(covariance, 0), (1 + SCARCE * 4) * covariance)
