"""Values inside the model: which, without what gates close, and how they are matched."""

import numpy as np
import onnx
import pytest
import torch
from strategies import random_inputs, random_model
from text_nets import net

from onnxprune import gates, groups, model, rewrite, to_torch
from onnxprune.errors import TrainingError
from onnxprune.plan import Plan
from onnxprune.training.batches import Batch
from onnxprune.training.evaluate import outputs_and_values
from onnxprune.training.features import Feature, Features


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


CONV = net(
    """net (float[N,3,6,6] x) => (float[N,4] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, wa)   ra = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (ra, wb)  s = Sigmoid (b)  sb = Mul (b, s)
        j = Concat <axis = 1> (ra, sb)
        c = Conv (j, wc)
        p = GlobalAveragePool (c)  f = Flatten (p)
        y = Gemm (f, wd)
    }""",
    wa=(8, 3, 3, 3), wb=(10, 8, 3, 3), wc=(12, 18, 1, 1), wd=(12, 4),
)  # fmt: skip

TOKENS = net(
    """net (float[N,5,6] x) => (float[N,5,4] y) {
        h = MatMul (x, wa)  g = Relu (h)
        n = LayerNormalization <axis = -1> (g, scale, shift)
        y = MatMul (n, wb)
    }""",
    wa=(6, 16), scale=(16,), shift=(16,), wb=(16, 4),
)  # fmt: skip

INPUTS = {"conv": (CONV, (7, 3, 6, 6)), "tokens": (TOKENS, (7, 5, 6))}


def gated(proto, close=0.5, seed=0):
    """The gated model, some gates closed; the same cut; and the numbers of gates by group."""
    loaded = model.load(proto)
    found, rng = groups.find(loaded), np.random.default_rng(seed)
    latents = {g.name: np.where(rng.random(g.size) < close, -1.0, 1.0).astype(np.float32) for g in found}
    for w in latents.values():
        w[0] = 1
    gates.insert(found, latents)
    with_gates = model.to_proto(loaded)
    gates.strip(loaded)
    cut = groups.find(loaded)
    rewrite.apply(cut, Plan({name: np.flatnonzero(w > 0) for name, w in latents.items()}))
    return with_gates, model.to_proto(loaded), latents


def features_of(patterns, with_gates, teacher, latents):
    def ungated():
        loaded = model.load(with_gates)
        gates.strip(loaded)
        return groups.find(loaded)

    sizes = {name: len(w) for name, w in latents.items()}
    return Features.of(patterns, ungated, [with_gates, teacher], sizes)


def values_of(proto, names, x):
    return outputs_and_values(to_torch.load(proto, also=names), Batch((x,), None))


@pytest.mark.parametrize("kind", INPUTS)
def test_masked_values_are_those_of_the_cut_model(kind):
    proto, shape = INPUTS[kind]
    with_gates, cut, latents = gated(proto)
    features = features_of(["*"], with_gates, proto, latents)
    assert {"conv": {"j", "sb", "f"}, "tokens": {"g", "n"}}[kind] < set(features.names)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (output,), values = values_of(with_gates, features.names, x)
    (slim_output,), slim = values_of(cut, features.names, x)
    torch.testing.assert_close(output, slim_output)
    masked = features.masked(values, torch.from_numpy(np.concatenate([*latents.values()])))
    for feature, ours, theirs in zip(features.features, masked, slim, strict=True):
        if not feature.deciding:
            torch.testing.assert_close(ours, theirs)
            continue
        ((axis, _),) = feature.deciding
        assert feature.channels == (axis,)
        rest = [at for at in range(ours.dim()) if at != axis]
        kept = ours.abs().sum(rest) > 0
        alive = theirs.abs().sum(rest) > 0  # a Relu may leave an open channel at 0
        assert 0 < int(kept.sum()) < ours.shape[axis]
        torch.testing.assert_close(
            ours.movedim(axis, 0)[kept], theirs.movedim(axis, 0)[alive], rtol=1e-4, atol=1e-5
        )
    _, whole = values_of(proto, features.names, x)
    torch.testing.assert_close(features.loss(masked, whole), features.loss(slim, whole), rtol=1e-4, atol=1e-6)
    assert features.loss(whole, whole) == 0 < features.loss(slim, whole)


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(s, marks=pytest.mark.slow) for s in range(8, 60))]
)
def test_masked_values_of_any_graph_have_the_sums_of_squares_of_the_cut_models(seed):
    proto = random_model(seed)
    with_gates, cut, latents = gated(proto, seed=seed)
    if not latents:
        pytest.skip("nothing of this graph can be pruned")
    features = features_of(["*"], with_gates, proto, latents)
    x = tuple(map(torch.from_numpy, random_inputs(proto, seed).values()))
    with torch.no_grad():
        _, values = outputs_and_values(to_torch.load(with_gates, also=features.names), Batch(x, None))
        _, slim = outputs_and_values(to_torch.load(cut, also=features.names), Batch(x, None))
    masked = features.masked(values, torch.from_numpy(np.concatenate([*latents.values()])))
    for feature, ours, theirs in zip(features.features, masked, slim, strict=True):
        one, other = (v.detach().square().sum(feature.channels) for v in (ours, theirs))
        torch.testing.assert_close(
            one,
            other,
            rtol=1e-3,
            atol=1e-4 * float(other.max()) + 1e-12,
            msg=lambda text, name=feature.name: f"{name}: {text}",
        )


def test_closed_channels_count_for_nothing_whatever_they_hold():
    feature = Feature("f", (1,), ((1, torch.tensor([[0], [1], [2]])),))
    value = torch.tensor([[[1.0, 2], [torch.nan, torch.inf], [3, 4]]], requires_grad=True)
    masked = Features((feature,)).masked([value], torch.tensor([0.1, 0.0]))[0]
    assert masked.tolist() == [[[1, 2], [0, 0], [3, 4]]]
    masked.sum().backward()
    assert value.grad.tolist() == [[[1, 1], [0, 0], [1, 1]]]


def test_an_entry_that_several_gates_decide_over_is_closed_by_any():
    feature = Feature("f", (1,), ((1, torch.tensor([[0, 1], [0, 2], [1, 2]])),))
    masked = feature.masked(torch.ones(1, 3), torch.tensor([False, True, False]))
    assert masked.tolist() == [[0, 1, 0]]


def test_values_with_positions_are_matched_by_where_they_are_large():
    ours, theirs = torch.randn(3, 4, 5, 5), torch.randn(3, 6, 5, 5)
    maps = [(v**2).sum(1).flatten(1) for v in (ours, theirs)]
    maps = [m / m.norm(dim=1, keepdim=True) for m in maps]
    feature = Feature("f", (1,))
    torch.testing.assert_close(feature.loss(ours, theirs), ((maps[0] - maps[1]) ** 2).sum(1).mean())
    assert feature.loss(ours, 3 * ours[:, torch.randperm(4)]) < 1e-10


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_values_without_positions_are_matched_by_which_samples_are_alike(shape):
    ours, theirs = torch.randn(3, 4), torch.randn(3, 6)
    grams = [v @ v.T for v in (ours, theirs)]
    grams = [g / g.norm(dim=1, keepdim=True) for g in grams]
    wanted = ((grams[0] - grams[1]) ** 2).sum(1).mean()
    shaped = (v.reshape(*v.shape, *shape) for v in (ours, theirs))
    torch.testing.assert_close(Feature("f", (1,)).loss(*shaped), wanted)


def test_several_patterns_choose_values_in_the_order_of_the_graph():
    with_gates, _, latents = gated(CONV)
    features = features_of(["s?", "ra"], with_gates, CONV, latents)
    assert features.names == ("ra", "sb")


def test_no_patterns_are_no_features():
    assert Features.of([], pytest.fail, [CONV], {}).names == ()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("layer*", r"features 'layer\*' fit no value of the model: it has a, ra, b, s, "),
        ("gate/*", "fit no value"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_names_that_could(pattern, says):
    with_gates, _, latents = gated(CONV)
    with pytest.raises(TrainingError, match=says):
        features_of(["ra", pattern], with_gates, CONV, latents)


def test_a_value_that_the_teacher_lacks_does_not_fit():
    with_gates, _, latents = gated(CONV)
    other = onnx.ModelProto()
    other.CopyFrom(CONV)
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "ra" else name for name in names]
    with pytest.raises(TrainingError, match="features 'ra' fit no value"):
        features_of(["ra"], with_gates, other, latents)


def test_other_gates_than_the_groups_are_refused():
    with_gates, _, _ = gated(CONV)
    with pytest.raises(TrainingError, match="gate the model anew"):
        features_of(["ra"], with_gates, CONV, {"wa": np.ones(3)})
