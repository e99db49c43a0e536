"""Muon for matrices and AdamW for the rest, under one learning rate."""

import pytest
import torch
from torch import Tensor

from onnxprune.training.muon import MuonAndAdamW
from onnxprune.training.side_by_side import SideBySide


def weight(*shape: int, scale: float = 1.0, channels_last: bool = False) -> Tensor:
    made = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    if channels_last:
        made = made.contiguous(memory_format=torch.channels_last)
    return made.requires_grad_()


def stepped(*weights: Tensor, lr: float = 0.01, parts: int = 2) -> list[Tensor]:
    """What one step along some gradient adds to each."""
    before = [one.detach().clone() for one in weights]
    with SideBySide(parts) as threads:
        optimizer = MuonAndAdamW(weights, lr, threads=threads)
        for number, one in enumerate(weights):
            noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
            one.grad = noise.to(memory_format=torch.preserve_format)
        optimizer.step()
    return [one.detach() - value for one, value in zip(weights, before, strict=True)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (8, 6, 3, 3), (16, 4, 5)])
def test_a_matrix_moves_by_a_share_of_its_own_size_whatever_that_is(shape, scale):
    one = weight(*shape, scale=scale)
    size = one.detach().square().mean().sqrt()
    (moved,) = stepped(one)
    # Newton and Schulz' five steps leave singular values between 0.7 and 1.2
    assert 0.5 < float(moved.square().mean().sqrt() / (0.01 * size)) < 1.3


def test_its_step_is_orthogonal():
    (moved,) = stepped(weight(10, 12))
    values = torch.linalg.svdvals(moved)
    assert float(values.max() / values.min()) < 2
    noise = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    plain = torch.linalg.svdvals(noise)
    assert float(plain.max() / plain.min()) > 4, "which the gradient is not"
    assert float((moved * noise).sum()) < 0, "and against it"


def test_a_kernel_moves_the_same_in_any_layout():
    moved, other = (stepped(weight(8, 6, 3, 3, channels_last=last))[0] for last in (False, True))
    assert not weight(8, 6, 3, 3, channels_last=True).is_contiguous()
    torch.testing.assert_close(moved, other, rtol=0.03, atol=1e-4)  # it is computed in bfloat16


@pytest.mark.parametrize("shape", [(5,), (1, 7), (9, 1), (1, 4, 6)])
def test_what_is_no_matrix_moves_as_by_adamw(shape):
    (moved,) = stepped(weight(*shape))
    torch.testing.assert_close(moved.abs(), torch.full(shape, 0.01), rtol=1e-3, atol=0)


def test_a_matrix_of_zeros_has_no_size_and_moves_all_the_same():
    (moved,) = stepped(weight(4, 5, scale=0.0))
    assert bool((moved != 0).all())


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(parts):
    def some() -> list[Tensor]:
        return [weight(8, 12), weight(5), weight(6, 4, 3, 3), weight(3, 3), weight(7, 9)]

    for one, other in zip(stepped(*some(), parts=1), stepped(*some(), parts=parts), strict=True):
        assert torch.equal(one, other)
