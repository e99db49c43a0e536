"""The budget is met, by every count, from any state of the gates."""

import numpy as np
import pytest
import torch
from chain import ChainCosts

from onnxprune.errors import TrainingError
from onnxprune.training.budget import BARELY, Budget, floors, ramp
from onnxprune.training.repair import repair


def start(budget, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.19, budget.gates).astype(np.float32)


def step(budget):
    """The most that one channel of any group costs, as a fraction."""
    (by,) = budget.limits
    return max(budget.costs.unit_costs(by, budget.costs.sizes)) / budget.wholes[by]


@pytest.mark.parametrize("by", ["channels", "params", "macs"])
@pytest.mark.parametrize("rho", [1.0, 0.83, 0.5, 0.2])
def test_projection_takes_the_cost_to_just_below_rho(chain, by, rho):
    budget = Budget.of(chain, {by: rho})
    w = budget.project(start(budget), rho)
    assert rho - step(budget) < budget.fraction(w) <= rho


def test_projection_shifts_all_gates_equally(chain):
    budget = Budget.of(chain, {"macs": 0.5}, least=0, share=0)
    w = start(budget)
    shift = budget.project(w, 0.5) - w
    assert shift[0] < 0
    np.testing.assert_allclose(shift, shift[0], atol=2 * BARELY)


def test_projection_leaves_gates_that_already_meet_rho(chain):
    budget = Budget.of(chain, {"macs": 0.5}, least=0, share=0)
    w = budget.project(start(budget), 0.5)
    np.testing.assert_array_equal(budget.project(w, 0.5), w)


def test_projection_reopens_what_closed_too_far(chain):
    budget = Budget.of(chain, {"channels": 0.5})
    w = start(budget) - 0.15
    assert budget.fraction(w) < 0.4
    assert budget.fraction(budget.project(w, 0.5)) == 0.5


def test_projection_separates_equal_gates(chain):
    budget = Budget.of(chain, {"channels": 0.5})
    w = budget.project(np.full(budget.gates, 0.1, np.float32), 0.5)
    assert budget.fraction(w) == 0.5


def test_projection_keeps_the_order_of_the_gates(chain):
    budget = Budget.of(chain, {"macs": 0.4}, least=0, share=0)
    w = start(budget)
    projected = budget.project(w, 0.4)
    assert (np.diff(projected[np.argsort(w)]) >= 0).all()


def test_a_group_of_low_gates_keeps_its_floor(chain):
    budget = Budget.of(chain, {"channels": 0.3})
    w = start(budget)
    w[:16] -= 1
    assert budget.opened(budget.project(w, 0.3)).tolist()[0] == 2


def test_a_target_below_the_floor_closes_all_that_may_close(chain):
    budget = Budget.of(chain, {"macs": 0.001})
    assert budget.fraction(budget.project(start(budget), 0.001)) == budget.least > 0.001


def test_the_floor_is_two_channels_or_five_percent_and_at_most_the_group():
    assert floors([1, 2, 40, 41, 400]).tolist() == [1, 2, 2, 3, 20]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.7, 0.5, 0.31])
def test_repair_leaves_no_gate_that_could_be_reopened(chain, target, seed):
    budget = Budget.of(chain, {"macs": target})
    opened = budget.opened(repair(budget, start(budget, seed)))
    assert budget.fraction_of(opened) <= target
    for group in np.flatnonzero(opened < chain.sizes):
        assert budget.fraction_of(opened + (np.arange(3) == group)) > target


def test_repair_makes_up_for_a_coarse_gate_with_finer_ones(chain):
    budget = Budget.of(chain, {"macs": 0.5})
    w = start(budget)
    w[16:80] = 0.3
    w[:16] = 0.02
    assert budget.fraction(budget.project(w, 0.5)) < budget.fraction(repair(budget, w)) <= 0.5


@pytest.mark.parametrize("seed", range(6))
def test_a_small_net_comes_within_a_hundredth_by_exchanges(seed):
    coarse = ChainCosts(("a", "b", "c"), (12, 20, 8), (64, 64, 16, 1), (3, 10))
    for target in (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 0.9):
        budget = Budget.of(coarse, {"macs": target})
        reached = budget.fraction(repair(budget, start(budget, seed)))
        assert target - 0.01 <= reached <= target


def test_repair_keeps_the_least_multiples_where_not_even_they_fit(chain):
    budget = Budget.of(chain, {"macs": 0.001}, multiple_of=8)
    assert budget.opened(repair(budget, start(budget))).tolist() == [8, 8, 8]


def test_unit_costs_are_relative_to_their_mean(chain):
    budget = Budget.of(chain, {"macs": 0.5})
    (unit,) = budget.unit_costs(start(budget))
    assert unit.mean() == pytest.approx(1)
    assert len(np.unique(unit)) == 3


def test_the_penalty_pulls_on_both_sides_of_a_layer(chain):
    budget = Budget.of(chain, {"macs": 0.5})
    opened = [torch.tensor(float(size), requires_grad=True) for size in chain.sizes]
    budget.penalty(opened).backward()
    assert all(count.grad is not None and count.grad > 0 for count in opened)
    assert budget.penalty([torch.tensor(float(s)) for s in chain.sizes]).item() == pytest.approx(0.25)


def test_rho_falls_linearly_and_then_stays():
    assert [ramp(step, 4, 0.5) for step in range(6)] == [1, 0.875, 0.75, 0.625, 0.5, 0.5]
    assert ramp(0, 0, 0.5) == 0.5


@pytest.mark.parametrize("target", [0, -0.1, 1.5, float("nan")])
def test_a_ratio_that_is_no_fraction_is_refused(chain, target):
    with pytest.raises(TrainingError, match="above 0 and up to 1"):
        Budget.of(chain, {"macs": target})


def test_a_model_without_prunable_groups_is_refused(chain):
    with pytest.raises(TrainingError, match="no channel group"):
        Budget.of(type(chain)((), (), (1,)), {"macs": 0.5})
