"""Several limits are met at once, each within 0.01, by gates that pay for them."""

import numpy as np
import pytest
from chain import ChainCosts

from onnxprune.training.balance import Balance
from onnxprune.training.budget import Budget
from onnxprune.training.repair import repair


def start(budget, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.19, budget.gates).astype(np.float32)


def met(budget, seed=0):
    balance = Balance(budget)
    return budget.shares(budget.opened(repair(budget, balance.level(start(budget, seed))))), balance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "limits",
    [{"macs": 0.5, "params": 0.4}, {"params": 0.4, "macs": 0.5}, {"macs": 0.3, "params": 0.35}],
    ids=str,
)
def test_two_limits_are_met_within_a_hundredth(wide, limits, seed):
    shares, _ = met(Budget.of(wide, limits), seed)
    for by, limit in limits.items():
        assert limit - 0.01 <= shares[by] <= limit


@pytest.mark.parametrize("seed", range(3))
def test_no_limit_is_passed_and_the_tightest_is_met(wide, seed):
    limits = {"channels": 0.6, "macs": 0.4, "params": 0.4}
    shares, _ = met(Budget.of(wide, limits), seed)
    assert all(shares[by] <= limit + 1e-9 for by, limit in limits.items())
    assert max(shares[by] - limit for by, limit in limits.items()) >= -0.01


def test_a_limit_with_room_to_spare_has_no_weight(wide):
    shares, balance = met(Budget.of(wide, {"macs": 0.4, "params": 0.95}))
    assert 0.39 <= shares["macs"] <= 0.4
    assert balance.weights.tolist() == [1, 0]


@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_with_multiples_two_limits_are_met_within_a_hundredth(wide, multiple):
    budget = Budget.of(wide, {"macs": 0.5, "params": 0.4}, multiple_of=multiple)
    w = repair(budget, Balance(budget).level(start(budget)))
    assert all(count % multiple == 0 for count in budget.opened(w))
    shares = budget.shares(budget.opened(w))
    assert shares["macs"] <= 0.5 and shares["params"] <= 0.4
    assert max(shares["macs"] - 0.5, shares["params"] - 0.4) >= -0.01


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_a_few_wide_steps_meet_both_limits(seed):
    narrow = ChainCosts(tuple("abcdef"), (16, 16, 32, 32, 64, 64), (1024, 1024, 256, 256, 64, 64, 1))
    shares, _ = met(Budget.of(narrow, {"macs": 0.5, "params": 0.4}, multiple_of=8), seed)
    assert 0.49 <= shares["macs"] <= 0.5
    assert 0.39 <= shares["params"] <= 0.4


def test_one_limit_is_left_alone(wide):
    budget = Budget.of(wide, {"macs": 0.5})
    balance, w = Balance(budget), start(budget)
    assert balance.tilt(w, 0.7, budget.unit_costs(w)) is w
    assert balance.level(w) is w


def test_the_mixed_cost_lies_between_the_limits(wide):
    budget = Budget.of(wide, {"macs": 0.5, "params": 0.4})
    units = budget.unit_costs(start(budget))
    mixed = Balance(budget).mixed(units)
    ratio = mixed / np.sqrt(units[0] * units[1])
    np.testing.assert_allclose(ratio, ratio[0])
    assert mixed.mean() == pytest.approx(1)


def test_a_missed_limit_says_why(wide):
    budget = Budget.of(wide, {"macs": 0.5, "params": 0.4})
    w = start(budget)
    assert "asked for 0.5 of the macs, reached 1.0000" in budget.shortfall(w)
    assert budget.shortfall(repair(budget, Balance(budget).level(w))) is None
    tight = Budget.of(wide, {"macs": 0.5, "params": 0.1}, share=0.5)
    assert "asked for 0.1 of the params" in tight.shortfall(repair(tight, w))
    assert "the least channels per group keep 0.25" in tight.shortfall(repair(tight, w))
