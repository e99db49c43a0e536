"""Counts whose cost is nearest to what is asked for: what steps up alone leave is made up for by trades."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from onnxprune import settle as settling
from onnxprune.settle import GAP, SEEN, TRADES, TRIED, allowed, settle


class Chain:
    """The MACs of layers one after another, what is left of them, and how often that was asked."""

    def __init__(self, seed: int, groups: int, widths: Sequence[int] = (1, 4, 8, 16)) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = rng.choice([3, 6, 8, 12, 16, 24, 32, 40, 64, 100, 128, 256], groups).tolist()
        self.areas = rng.choice([1, 4, 16, 64], groups + 1).tolist()
        self.ranges = [allowed(size, int(rng.choice(widths))) for size in self.sizes]
        self.target = float(rng.uniform(0.1, 0.9))
        self.looks = 0

    def fraction(self, counts: Sequence[float]) -> float:
        self.looks += 1
        return self._macs(counts) / self._macs(self.sizes)

    def _macs(self, counts: Sequence[float]) -> float:
        widths = [3, *counts, 10]
        return float(sum(n * i * o for n, i, o in zip(self.areas, widths[:-1], widths[1:], strict=True)))

    def wanted(self, t: float) -> list[float]:
        return [t * size for size in self.sizes]

    def settled(self, *, at_most: bool = False) -> list[int]:
        return settle(self.fraction, self.target, self.ranges, self.wanted, at_most=at_most)

    def off(self, counts: Sequence[int]) -> float:
        return abs(self.fraction(counts) - self.target)


@pytest.fixture
def untraded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """The counts after steps up alone."""

    def settled(chain: Chain, *, at_most: bool = False) -> list[int]:
        with monkeypatch.context() as patch:
            patch.setattr(settling, "GAP", np.inf)
            return chain.settled(at_most=at_most)

    return settled


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("seed", range(8))
def test_trades_bring_the_cost_no_further_from_the_target(
    seed: int, groups: int, at_most: bool, untraded: Callable[..., list[int]]
):
    chain = Chain(seed, groups)
    before, after = untraded(chain, at_most=at_most), chain.settled(at_most=at_most)
    assert chain.off(after) <= chain.off(before)
    assert all(n in range_ for n, range_ in zip(after, chain.ranges, strict=True))
    assert after == chain.settled(at_most=at_most)
    if at_most and chain.fraction([r[0] for r in chain.ranges]) <= chain.target:
        assert chain.fraction(after) <= chain.target


@pytest.mark.parametrize(
    ("target", "at_most", "by_steps_up", "traded"),
    [(31, False, [2, 2], [1, 3]), (31, True, [2, 1], [1, 3]), (24, False, [2, 1], [1, 2])],
)
def test_a_coarse_step_is_traded_for_finer_ones(
    target: int,
    at_most: bool,
    by_steps_up: list[int],
    traded: list[int],
    monkeypatch: pytest.MonkeyPatch,
):
    """Of four channels of 10 and four of 7: 31 = 10 + 3 * 7 and 24 = 10 + 2 * 7."""

    def settled() -> list[int]:
        return settle(
            lambda n: (10 * n[0] + 7 * n[1]) / 68, target / 68, [[1, 2, 3, 4]] * 2, lambda t: [4 * t, 4 * t],
            at_most=at_most,
        )  # fmt: skip

    assert settled() == traded
    monkeypatch.setattr(settling, "GAP", np.inf)
    assert settled() == by_steps_up


def test_a_dozen_groups_in_wide_steps_come_within_the_gap(untraded: Callable[..., list[int]]):
    chains = [Chain(seed, 12, (4, 8, 16)) for seed in range(30)]
    assert sum(chain.off(untraded(chain)) > GAP for chain in chains) > 5
    assert sum(chain.off(chain.settled()) > GAP for chain in chains) <= 1


def test_of_trades_as_close_to_the_target_the_one_nearest_to_the_wish_is_made():
    """The third group's step is 10 too much: a quarter of the first group is 10, an eighth of the second."""
    counts = settle(
        lambda n: (10 * n[0] + 2 * n[1] + 30 * n[2]) / 180,
        110 / 180,
        [[1, 2, 3, 4], [*range(5, 41, 5)], [1, 2]],
        lambda t: [2.0, 20.0, 2 * t],
    )
    assert counts == [2, 15, 2]


@pytest.mark.parametrize(("size", "kept"), [(2, 2), (40, 39)])
def test_no_large_part_of_a_group_goes_for_a_little_of_the_cost(size: int, kept: int):
    counts = settle(
        lambda n: 0.5 + 0.0028 * (n[0] - size + 1), 0.5, [[size - 1, size]], lambda _: [float(size)]
    )
    assert counts == [kept]


@pytest.mark.parametrize("groups", [60, 300])
def test_trades_take_few_looks_at_the_cost(groups: int, monkeypatch: pytest.MonkeyPatch):
    """Even where they are never close enough."""
    chain = Chain(0, groups, [16])
    looks = []
    for gap in (np.inf, 0.0):
        monkeypatch.setattr(settling, "GAP", gap)
        chain.looks = 0
        chain.settled()
        looks.append(chain.looks)
    assert 2 * SEEN < looks[1] - looks[0] < 1 + TRADES * (2 * SEEN + TRIED)
