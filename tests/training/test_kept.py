"""What a step needs to keep."""

import torch

from onnxprune.training.memory import kept


def test_each_value_that_a_backward_pass_reads_counts_once_and_weights_do_not():
    weight, x = torch.randn(4, 8, requires_grad=True), torch.randn(3, 4)

    def forward() -> torch.Tensor:
        hidden = (x @ weight).tanh()  # keeps x (48 bytes) and what it makes (96)
        return hidden.square().sum()  # keeps the same again

    assert kept(forward, [weight]) == 48 + 96
    assert kept(forward, []) == 48 + 96  # of the product's two sides x alone is read: it has no gradient itself


def test_what_only_frozen_weights_stand_behind_is_not_kept():
    frozen, weight = torch.randn(4, 8), torch.randn(8, 2, requires_grad=True)
    x = torch.randn(3, 4)
    assert kept(lambda: (x @ frozen).tanh() @ weight, [frozen, weight]) == 96


def test_it_measures_where_gradients_are_off():
    weight = torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert kept(weight.exp, [weight]) == 20
