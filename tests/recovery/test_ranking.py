"""Importance of gates by measured sensitivity, and training that starts from it."""

import numpy as np
import onnx
import pytest
from text_nets import net

from onnxprune import model as files
from onnxprune import train
from onnxprune.errors import TrainingError
from onnxprune.groups import find
from onnxprune.recovery.ranking import Ranking
from onnxprune.training.data import from_arrays

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 6)).astype(np.float32)
LIVE = {"l": [0, 2, 5], "m": [1, 3, 4, 6]}
"""The channels of either layer that are not 0 on all inputs."""


@pytest.fixture
def half_dead() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weights = {"a": (6, 6), "b": (6, 8), "c": (8, 3)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}
    values["a"][:, np.delete(np.arange(6), LIVE["l"])] = 0
    values["b"][:, np.delete(np.arange(8), LIVE["m"])] = 0
    values["b"] += values["b"] != 0  # so that no live channel of m is 0 on all inputs
    return net(
        """net (float[N,6] x) => (float[N,3] y) {
            h = MatMul(x, a)  l = Relu(h)  i = MatMul(l, b)  m = Relu(i)  y = MatMul(m, c) }""",
        values=values,
    )


def test_channels_that_are_always_0_are_worth_nothing(half_dead):
    data = from_arrays({"x": X}, [("x", np.float32, (None, 6))])
    model = files.load(half_dead)
    sizes = {group.name: group.size for group in find(model)}
    names = sorted(sizes, key=sizes.__getitem__)
    scores = Ranking(files.export(files.load(half_dead)), names, 0)(data)
    assert np.isfinite(scores).all()
    for part, live in zip(np.split(scores, [6]), LIVE.values(), strict=True):
        dead = np.delete(np.arange(len(part)), live)
        assert part[dead].max() < 1e-3 * part[live].min()


@pytest.mark.parametrize("method", ["finetune", "fisher", "tgl"])
def test_training_starts_from_it(half_dead, method):
    ramp = {} if method == "finetune" else {"ramp": 0.5}
    trained = train(
        half_dead, {"x": X, "y": np.arange(256) % 3}, ratio=0.5, method=method, ranking="sensitivity", epochs=1,
        batch_size=64, lr=1e-5, device="cpu", floor_channels=1, multiple_of=1, **ramp,
    )  # fmt: skip
    gates = [onnx.numpy_helper.to_array(t) for t in trained.model.graph.initializer if "gate" in t.name]
    opened = {len(w): np.flatnonzero(w > 0).tolist() for w in gates}
    assert opened == {6: LIVE["l"], 8: LIVE["m"]}


def test_where_it_is_not_used_that_is_said(half_dead, caplog):
    train(half_dead, {"x": X}, method="finetune", start="given", ratio=1, ranking="sensitivity", epochs=1, device="cpu")
    assert "the ranking is not used" in caplog.text


def test_an_unknown_ranking_is_named(half_dead):
    with pytest.raises(TrainingError, match="ranking 'guess' is unknown: give one of gradients, sensitivity"):
        train(half_dead, {"x": X}, ranking="guess")
