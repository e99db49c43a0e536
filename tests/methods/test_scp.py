"""SCP asks BatchNormalization which channels ReLU silences, and pushes those that are to go."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gates import gates

from onnxprune import model as files
from onnxprune.errors import TrainingError
from onnxprune.groups import find
from onnxprune.methods.scp import ALIVE, Scp
from onnxprune.norms import norms

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "digits.onnx"
FOLDED = DIGITS.with_name("digits_folded.onnx")


@pytest.fixture(scope="module")
def groups():
    return find(files.load(DIGITS))


@pytest.fixture
def tensors(groups):
    """BatchNorm's scales and biases of the digits network, at random."""
    rng = np.random.default_rng(0)
    named = {name for each in norms(groups).values() for norm in each for name in (norm.scale, norm.bias)}
    sizes = {t.name: t.shape for t in groups.model.graph.tensors().values() if t.name in named}
    return {
        name: torch.tensor(rng.normal(0, 1, sizes[name]), dtype=torch.float32, requires_grad=True)
        for name in sorted(named)
    }


@pytest.fixture
def method(groups, tensors):
    made = Scp()
    sizes = {group.name: group.size for group in groups}
    made.attach(gates(sizes, groups=lambda: groups, tensors=tensors))
    return made


def phi(beta, gamma):
    return 0.5 * (1 + math.erf(-beta / (abs(gamma) * math.sqrt(2))))


def test_a_latent_is_open_exactly_where_the_papers_rule_keeps_the_channel(method, groups, tensors):
    found = norms(groups)
    for group in groups:
        latent = method.latent(group.name, [tensors[name] for name in method.operands(group.name)])
        for channel in range(group.size):
            dead = [
                phi(tensors[n.bias][e].item(), tensors[n.scale][e].item()) >= 0.95
                for n in found[group.name]
                for c, e in zip(n.channels, n.entries, strict=True)
                if c == channel
            ]
            assert dead, "every channel of the digits network is normalised"
            assert (latent[channel].item() <= 0) == all(dead)


def test_a_shared_channel_goes_only_when_every_member_agrees(method, groups, tensors):
    shared = max(groups, key=lambda group: len(norms(groups)[group.name]))
    members = norms(groups)[shared.name]
    assert len(members) > 2
    with torch.no_grad():
        for member in members:
            tensors[member.scale].fill_(0.1)
            tensors[member.bias].fill_(-1.0)
        operands = [tensors[name] for name in method.operands(shared.name)]
        assert (method.latent(shared.name, operands) < 0).all()
        tensors[members[0].bias][int(members[0].entries[3])] = 1.0
        opened = method.latent(shared.name, operands) > 0
    assert opened.nonzero().flatten().tolist() == [int(members[0].channels[3])]


def test_masks_are_binary_concrete_and_pass_gradients(method, groups, tensors):
    group = next(iter(groups))
    operands = [tensors[name] for name in method.operands(group.name)]
    torch.manual_seed(0)
    ones = torch.ones(group.size)
    with torch.no_grad():
        draw = torch.vmap(lambda w: method.mask(group.name, w, *operands), randomness="different")
        draws = draw(ones.expand(4000, -1))
        opened = (draws > 0.5).float().mean(0)
        chances = torch.sigmoid(method.latent(group.name, operands))
    torch.testing.assert_close(opened, chances, atol=0.04, rtol=0)  # 5 deviations of 4,000 draws
    method.mask(group.name, ones, *operands).sum().backward()
    assert all(operand.grad is not None and operand.grad.abs().sum() > 0 for operand in operands)


def test_the_lower_the_temperature_the_nearer_are_masks_to_0_and_1(groups, tensors):
    def spread(tau):
        made = Scp(tau=tau)
        sizes = {group.name: group.size for group in groups}
        made.attach(gates(sizes, groups=lambda: groups, tensors=tensors))
        group = next(iter(groups))
        torch.manual_seed(0)
        mask = made.mask(
            group.name, torch.ones(group.size), *(tensors[n] for n in made.operands(group.name))
        )
        return (mask * (1 - mask)).mean().item()

    assert spread(0.05) < spread(0.5) < spread(2.0)


def test_what_the_budget_would_close_is_pushed_to_silence(method, groups, tensors):
    count = sum(group.size for group in groups)
    scores = np.arange(1.0, count + 1)
    w = method.begin(scores)
    assert method.loss() is None
    method.step(w, np.zeros(count, np.float32), rho=0.9)
    pushed = {group: mask.sum().item() for group, mask in method.pushed.items()}
    assert sum(pushed.values()) == count - int(0.9 * count)
    method.loss().backward()
    first = next(iter(pushed))
    bias = tensors[norms(groups)[first][0].bias]
    assert (bias.grad >= 0).all() and bias.grad.sum() > 0
    optimizer = torch.optim.SGD([t for t in tensors.values() if t.grad is not None], 1.0)
    before = method.loss().item()
    optimizer.step()
    assert method.loss().item() < before


def test_the_push_grows_while_the_ratio_is_missed_and_falls_when_it_is_passed(method, groups):
    count = sum(group.size for group in groups)
    w = method.begin(np.arange(1.0, count + 1))
    reached = method.gates.fraction(w)
    start = method.push
    method.step(w, np.zeros(count, np.float32), rho=reached - 0.5)
    assert method.push > start
    higher = method.push
    method.step(w, np.zeros(count, np.float32), rho=reached + 0.3)
    assert method.push < higher


def test_its_state_is_taken_up_again(method, groups, tensors):
    count = sum(group.size for group in groups)
    w = method.begin(np.arange(1.0, count + 1))
    w = method.step(w, np.zeros(count, np.float32), rho=0.7)
    other = Scp()
    other.attach(method.gates)
    other.resume(method.state())
    assert other.push == method.push
    torch.testing.assert_close(other.loss(), method.loss())
    again = [m.step(w, np.zeros(count, np.float32), rho=0.6) for m in (method, other)]
    np.testing.assert_array_equal(*again)
    torch.testing.assert_close(other.loss(), method.loss())


def test_channels_that_no_norm_sees_stay_open(groups, tensors):
    method = Scp()
    sizes = {group.name: group.size for group in groups} | {"bare": 3}
    method.attach(gates(sizes, groups=lambda: groups, tensors=tensors))
    assert method.latent("bare", []).tolist() == [ALIVE] * 3


def test_a_model_without_norms_is_refused():
    folded = find(files.load(FOLDED))
    with pytest.raises(TrainingError, match="none is on any channel group: use the method tgl"):
        Scp().attach(gates({group.name: group.size for group in folded}, groups=lambda: folded))
