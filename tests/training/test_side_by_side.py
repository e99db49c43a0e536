"""Parts of a batch on threads of their own."""

import threading

import pytest
import torch
from torch import nn

from onnxprune.training.batches import Batch
from onnxprune.training.side_by_side import MOST, SideBySide


def test_parts_of_a_batch_give_the_gradients_of_the_whole():
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    batch = Batch((torch.randn(11, 5),), None)
    weights = list(net.parameters())

    def gradients(part: Batch) -> list[torch.Tensor]:
        loss = net(part.inputs[0]).square().mean() * len(part) / len(batch)
        return list(torch.autograd.grad(loss, weights))

    whole = gradients(batch)
    with SideBySide(3) as threads:
        parts = threads.map(gradients, batch.divided(threads.parts))
    assert len(parts) == 3
    for wanted, *found in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(found), wanted)


def test_results_come_in_order_and_from_several_threads_at_once():
    barrier = threading.Barrier(2, timeout=60)
    with SideBySide(2) as threads:
        found = threads.map(lambda n: (barrier.wait(), n)[1], [3, 1])
    assert found == [3, 1]


def test_threads_inside_of_ops_are_divided_and_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with SideBySide(2) as threads:
            assert set(threads.map(lambda _: torch.get_num_threads(), range(8))) == {2}
        assert torch.get_num_threads() == 4
        assert SideBySide().parts == 4
        torch.set_num_threads(MOST + 2)
        assert SideBySide().parts == MOST
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_part_comes_out_and_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), SideBySide(2) as threads:
        threads.map(lambda n: 1 // n, [1, 0])
    assert torch.get_num_threads() == before


def test_a_batch_of_fewer_samples_than_parts_is_divided_into_samples():
    batch = Batch((torch.arange(3), torch.arange(6).reshape(3, 2)), None)
    parts = batch.divided(4)
    assert [part.inputs[0].tolist() for part in parts] == [[0], [1], [2]]
    assert parts[2].inputs[1].tolist() == [[4, 5]]
