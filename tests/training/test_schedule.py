"""The learning rate is a function of the step, and of known shapes."""

from itertools import pairwise

import pytest
import torch

from onnxprune.training.schedule import factor

STEPS = 100


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "one-cycle", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_highest_rate_is_reached_and_none_is_above_it(schedule, warmup):
    rates = [factor(schedule, step, STEPS, warmup) for step in range(STEPS)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert all(rate > 0 for rate in rates)


def test_cosine_is_pytorchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        assert factor("cosine", step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_linear_is_pytorchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for step in range(STEPS):
        assert factor("linear", step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_one_cycle_rises_and_falls_as_pytorchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=STEPS)
    for step in range(STEPS - 1):
        assert factor("one-cycle", step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.05)
        optimizer.step()
        scheduler.step()


def test_step_is_divided_at_a_half_and_at_three_quarters():
    rates = [factor("step", step, STEPS) for step in (0, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_rises_linearly_from_above_zero():
    rates = [factor("constant", step, STEPS, 0.1) for step in range(11)]
    steps = [later - earlier for earlier, later in pairwise(rates)]
    assert rates[0] > 0 and steps == pytest.approx([1 / 11] * 10)
    assert rates[10] == 1
