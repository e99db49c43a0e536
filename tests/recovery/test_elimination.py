"""Channels taken away one after the other, with what the weights of the others can make up for."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.recovery.elimination import AT_ONCE, Elimination, Layer
from onnxprune.recovery.moments import damped

Floats = NDArray[np.float64]


def hessian(rows: int, seed: int = 0, blocks: int = 1) -> Floats:
    u = np.random.default_rng(seed).normal(size=(blocks, 4 * rows, rows))
    u[..., 1:] += 0.7 * u[..., :-1]
    return damped(u.transpose(0, 2, 1) @ u / (4 * rows), 4 * rows)


def weight(rows: int, outputs: int, seed: int = 0, blocks: int = 1) -> Floats:
    return np.random.default_rng(seed + 1).normal(size=(blocks, rows, outputs))


def rows_of(channels: int, each: int, blocks: int = 1) -> list[NDArray[np.intp]]:
    return [np.arange(channels * each).reshape(channels, each)] * blocks


def best(h: Floats, w: Floats, left: NDArray[np.intp]) -> Floats:
    """The closed form: W with rows `left` only that minimises tr (W - W0)' H (W - W0)."""
    found = np.zeros_like(w)
    found[left] = np.linalg.solve(h[np.ix_(left, left)], h[left] @ w)
    return found


def risen(h: Floats, before: Floats, after: Floats) -> float:
    gone = after - before
    return float(np.einsum("bro,brs,bso->", gone, h, gone))


CASES = {"a row each": (12, 1, 1), "several rows each": (6, 4, 1), "blocks": (6, 2, 3), "many": (3 * AT_ONCE, 1, 1)}


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_what_is_left_is_the_least_squares_solution_and_costs_what_is_said(case: str, forced: bool):
    channels, each, blocks = CASES[case]
    h, w = hessian(channels * each, blocks=blocks), weight(channels * each, 5, blocks=blocks)
    rows = rows_of(channels, each, blocks)
    elimination = Elimination(channels, [Layer.of(h, w, rows, scale=0.25)])
    scores = np.random.default_rng(7).permutation(channels).astype(float) if forced else None
    for count in (channels - 1, channels // 2, 1):
        elimination.down_to(count, scores)
        left = np.sort(np.concatenate([rows[0][k] for k in elimination.left]))
        wanted = np.stack([best(h[b], w[b], left) for b in range(blocks)])
        np.testing.assert_allclose(elimination.layers[0].weight, wanted, atol=1e-7)
        assert elimination.spent[-1] == pytest.approx(0.25 * risen(h, w, wanted), rel=1e-6)
    assert sorted([*elimination.order, *elimination.left]) == list(range(channels))
    assert len(elimination.spent) == len(elimination.order) + 1
    assert (np.diff(elimination.spent) >= 0).all()
    if forced and channels < 2 * AT_ONCE:
        assert scores is not None
        assert elimination.order == np.argsort(scores)[:-1].tolist()


def test_the_channel_that_is_missed_least_goes_first():
    h, w = hessian(8), weight(8, 3)
    alone = [risen(h, w, best(h[0], w[0], np.delete(np.arange(8), k))[None]) for k in range(8)]
    elimination = Elimination(8, [Layer.of(h, w, rows_of(8, 1))])
    elimination.down_to(7)
    assert elimination.order == [int(np.argmin(alone))]
    assert elimination.spent == pytest.approx([0, min(alone)])


def test_of_two_equal_channels_one_goes_first_and_costs_nothing():
    u = np.random.default_rng(0).normal(size=(200, 6))
    u[:, 4] = u[:, 1]
    w = 10 * weight(6, 3)
    elimination = Elimination(6, [Layer.of(u.T[None] @ u / 200 + 1e-8 * np.eye(6), w, rows_of(6, 1))])
    elimination.down_to(5)
    (gone,) = elimination.order
    assert gone in (1, 4)
    assert elimination.spent[1] < 1e-5
    np.testing.assert_allclose(elimination.layers[0].weight[0, 5 - gone], w[0, 1] + w[0, 4], rtol=1e-4)


def test_all_layers_that_read_a_channel_have_a_say():
    parts = [(hessian(5, seed), weight(5, 2, seed)) for seed in (0, 9)]
    costs = [
        [s * risen(h, w, best(h[0], w[0], np.delete(np.arange(5), k))[None]) for k in range(5)]
        for s, (h, w) in zip((1.0, 20.0), parts, strict=True)
    ]
    layers = [Layer.of(h, w, rows_of(5, 1), s) for s, (h, w) in zip((1.0, 20.0), parts, strict=True)]
    elimination = Elimination(5, layers)
    np.testing.assert_allclose(sum(layer.losses(np.arange(5)) for layer in layers), np.sum(costs, axis=0))
    elimination.down_to(4)
    assert elimination.order == [int(np.argmin(np.sum(costs, axis=0)))]


def test_channels_of_two_groups_in_one_layer_go_one_group_after_the_other():
    h, w = hessian(6), weight(6, 2)
    layer = Layer.of(h, w, [np.arange(6).reshape(2, 3)])
    Elimination(2, [layer]).down_to(1)
    heads = np.flatnonzero(layer.weight[0].any(axis=1))
    layer.rows = [np.arange(6).reshape(2, 3).T]
    second = Elimination(3, [layer])
    second.down_to(2)
    left = np.intersect1d(heads, layer.rows[0][second.left])
    assert len(left) == 2
    np.testing.assert_allclose(layer.weight[0], best(h[0], w[0], left), atol=1e-9)


def test_all_channels_may_go():
    h, w = hessian(4), weight(4, 2)
    elimination = Elimination(4, [Layer.of(h, w, rows_of(4, 1))])
    elimination.down_to(0)
    assert not elimination.layers[0].weight.any()
    assert elimination.spent[-1] == pytest.approx(risen(h, w, 0 * w))
