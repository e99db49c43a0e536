"""Trainable gates: exact in the forward pass, trainable in the backward pass."""

import numpy as np
import pytest
import torch
from gates import gates

from onnxprune.methods.gate import SLOPES, gate
from onnxprune.methods.taylor import importance, ranked_start
from onnxprune.methods.tgl import Tgl


def test_a_gate_is_exactly_one_or_zero_and_closed_at_zero():
    w = torch.tensor([-3.0, -1e-9, 0.0, 1e-9, 3.0])
    assert gate(w).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("slope", SLOPES)
def test_a_gate_passes_the_gradient_times_its_slope(slope):
    w = torch.tensor([-2.0, 0.0, 0.5], requires_grad=True)
    gate(w, slope).backward(torch.tensor([1.0, 2.0, -3.0]))
    smooth = {"one": lambda x: x, "sigmoid": torch.sigmoid, "tanh": torch.tanh}[slope]
    v = w.detach().clone().requires_grad_()
    smooth(v).backward(torch.tensor([1.0, 2.0, -3.0]))
    torch.testing.assert_close(w.grad, v.grad)


def test_the_gate_is_the_limit_of_the_papers_gate():
    w, big = torch.tensor([-0.31, 0.27], dtype=torch.float64), 1e6
    wave = (big * w - torch.floor(big * w)) / big
    torch.testing.assert_close((w > 0).double() + wave, gate(w), atol=1 / big, rtol=0)


def test_a_step_is_divided_by_the_unit_cost_and_clipped():
    w, unit = np.zeros(3, np.float32), np.asarray([0.5, 2.0, 1.0])
    method = Tgl(lr=0.1, clip=0.1)
    method.attach(gates({"a": 3}, unit=unit))
    moved = method.step(w, np.asarray([0.02, 0.02, -5.0], np.float32), rho=1.0)
    np.testing.assert_allclose(moved, [-0.004, -0.001, 0.01], rtol=1e-6)
    assert moved.dtype == np.float32


def test_importance_sums_squared_gradients_over_batches():
    a, b = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    losses = [(a * torch.tensor([1.0, 2.0])).sum(), (a * torch.tensor([-3.0, 0.0])).sum() + 5 * b.sum()]
    np.testing.assert_allclose(importance(losses, [a, b]), [10, 4, 25])


def test_importance_of_a_gate_that_no_loss_reaches_is_zero():
    a, unused = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    assert importance([a.sum()], [a, unused]).tolist() == [1, 0, 0]


def test_a_ranked_start_opens_all_gates_in_order_of_importance_per_cost():
    w = ranked_start(np.asarray([4.0, 1.0, 9.0]), np.asarray([1.0, 1.0, 10.0]))
    np.testing.assert_allclose(w, [0.19, 0.10, 0.01], atol=1e-6)


def test_a_ranked_start_separates_equal_gates():
    assert len(set(ranked_start(np.zeros(50), np.ones(50)).tolist())) == 50
