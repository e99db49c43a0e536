"""BatchNorm statistics made those of their inputs."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from onnxprune import to_torch
from onnxprune.training.batches import Batch
from onnxprune.training.statistics import remeasure, restate, settle


@pytest.fixture
def batches(labelled) -> list[Batch]:
    x = torch.from_numpy(labelled.batch(range(96))[0])
    return [Batch((part,), None) for part in x.split(32)]


@pytest.fixture
def module(trained_cnn) -> nn.Module:
    """The net with statistics that are not those of its inputs."""
    found = to_torch.load(trained_cnn).eval()
    state = found.state_dict()
    state["bn1.mean"].add_(0.3)
    state["bn1.var"].mul_(2.0)
    return found


def results(module: nn.Module, batches: list[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(*batch.inputs) for batch in batches])


def convolved(module: nn.Module, batches: list[Batch]) -> Tensor:
    x = torch.cat([batch.inputs[0] for batch in batches])
    return torch.nn.functional.conv2d(x, module.state_dict()["conv1.weight"].detach(), padding=1)


def loss_to(teacher: nn.Module, module: nn.Module) -> Callable[[Batch], Tensor]:
    return lambda batch: (module(*batch.inputs) - teacher(*batch.inputs)).square().mean()


def test_remeasured_statistics_are_those_of_the_batches(module, batches):
    remeasure(module, batches)
    state, inputs = module.state_dict(), convolved(module, batches)
    torch.testing.assert_close(state["bn1.mean"], inputs.mean((0, 2, 3)))
    torch.testing.assert_close(state["bn1.var"], inputs.var((0, 2, 3)), rtol=0.02, atol=1e-3)
    assert not module.training


def test_restated_a_module_computes_what_it_did_and_nearly_so_in_training(module, batches):
    before, trained = results(module, batches), results(deepcopy(module).train(), batches)
    assert not torch.allclose(before, trained, atol=0.1 * float(before.std()))
    restate(module, batches)
    torch.testing.assert_close(results(module, batches), before, rtol=1e-4, atol=1e-4)
    state, inputs = module.state_dict(), convolved(module, batches)
    torch.testing.assert_close(state["bn1.mean"], inputs.mean((0, 2, 3)))
    torch.testing.assert_close(state["bn1.var"], inputs.var((0, 2, 3)))
    one = [Batch((torch.cat([batch.inputs[0] for batch in batches]),), None)]
    torch.testing.assert_close(results(module.train(), one), before, rtol=1e-2, atol=0.01 * float(before.std()))


def test_what_is_shared_stays(module, batches):
    norm = [node for node in module.graph.nodes if len(node.args) == 5][1]
    norm.args = (*norm.args[:2], norm.args[1], *norm.args[3:])  # scale and shift in one
    module.recompile()
    before = results(module, batches)
    plain = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    restate(module, batches)
    torch.testing.assert_close(results(module, batches), before, rtol=1e-4, atol=1e-4)
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, plain[name])}
    assert changed == {"bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"}


def test_weights_that_were_fitted_with_the_statistics_are_left_what_they_were_fitted_to(module, batches):
    before = results(module, batches)
    assert settle(module, lambda: batches, loss_to(deepcopy(module), module))
    torch.testing.assert_close(results(module, batches), before, rtol=1e-4, atol=1e-4)
    assert not module.training


def test_statistics_that_lag_are_replaced(trained_cnn, module, batches):
    original = to_torch.load(trained_cnn).eval()
    apart = (results(module, batches) - results(original, batches)).square().mean()
    assert not settle(module, lambda: batches, loss_to(original, module))
    assert (results(module, batches) - results(original, batches)).square().mean() < 0.1 * apart
    inputs = convolved(module, batches)
    torch.testing.assert_close(module.state_dict()["bn1.mean"], inputs.mean((0, 2, 3)))


def test_without_batchnorm_nothing_changes(batches):
    module = nn.Flatten()
    assert settle(module, lambda: batches, lambda batch: torch.zeros(()))
