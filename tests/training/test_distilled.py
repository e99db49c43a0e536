"""A pruned model taught by the original it was cut from, on samples without labels."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx.parser import parse_model

from onnxprune.apart import Apart, take_apart
from onnxprune.distilled import distilled
from onnxprune.errors import TrainingError
from onnxprune.session import open_session
from onnxprune.training import evaluate, teaching
from onnxprune.training.batches import Batch
from onnxprune.training.data import from_arrays

RNG = np.random.default_rng(0)
KEPT = [0, 2, 3, 6, 7]
WEIGHTS = {
    "stem": RNG.normal(0, 0.4, (6, 3, 3, 3)), "w1": RNG.normal(0, 0.3, (8, 6, 3, 3)), "b1": RNG.normal(0, 0.3, 8),
    "w2": RNG.normal(0, 0.2, (6, 8, 3, 3)), "scale": RNG.uniform(0.5, 1.5, 6), "bias": RNG.normal(0, 0.2, 6),
    "mean": RNG.normal(0, 0.2, 6), "var": RNG.uniform(0.5, 1.5, 6), "head": RNG.normal(0, 1, (6, 4)),
    "w3": RNG.normal(0, 0.5, (6, 6, 1, 1)), "w4": RNG.normal(0, 0.5, (6, 6, 1, 1)),
}  # fmt: skip
GRAPH = """<ir_version: 8, opset_import: ["" : 18]>
net (float[n, 3, 8, 8] x) => (float[n, 4] y) {{
  stream = Conv<pads=[1,1,1,1]>(x, stem)
  c1 = Conv<pads=[1,1,1,1]>(stream, w1, b1)
  inner = Relu(c1)
  c2 = Conv<pads=[1,1,1,1]>(inner, w2)
  n2 = BatchNormalization(c2, scale, bias, mean, var)
  total = Add(stream, n2)
  rectified = Relu(total)
  c3 = Conv(rectified, w3)
  more = Relu(c3)
  c4 = Conv(more, w4)
  pooled = GlobalAveragePool(c4)
  flat = Flatten(pooled)
  logits = MatMul(flat, head)
  y = {last}(logits)
}}"""


def net(last: str = "Identity", **changed: np.ndarray) -> Apart:
    """A residual block and a linear layer, (n, 3, 8, 8) -> (n, 4)."""
    model = parse_model(GRAPH.format(last=last))
    for name, values in (WEIGHTS | changed).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return take_apart(model)


def cut(last: str = "Identity", **changed: np.ndarray) -> Apart:
    """The same with 5 of the 8 inner channels, and weights that are somewhat off."""
    off = {
        name: WEIGHTS[name] + RNG.normal(0, 0.05, WEIGHTS[name].shape) for name in ("stem", "scale", "head")
    }
    inner = {"w1": WEIGHTS["w1"][KEPT], "b1": WEIGHTS["b1"][KEPT], "w2": WEIGHTS["w2"][:, KEPT]}
    return net(last, **off, **inner, **changed)


IMAGES = RNG.normal(0, 1, (256, 3, 8, 8)).astype(np.float32)
TEST = RNG.normal(0, 1, (64, 3, 8, 8)).astype(np.float32)
SAMPLES, HELD = (
    from_arrays({"x": x}, [("x", np.float32, (None, 3, 8, 8))])
    for x in (IMAGES, RNG.normal(0, 1, (64, 3, 8, 8)).astype(np.float32))
)


def outputs(model: Apart) -> np.ndarray:
    return open_session(model, threads=1).run(None, {"x": TEST})[0]


def distance(model: Apart, dense: Apart) -> float:
    return float(np.square(outputs(model) - outputs(dense)).mean() / outputs(dense).var())


@pytest.mark.parametrize("last", ["Identity", "Sigmoid"])  # class scores, and values
def test_the_outputs_come_several_times_nearer_on_samples_it_has_not_seen(last):
    slim, dense = cut(last), net(last)
    before = distance(slim, dense)
    slim.put(distilled(slim, dense, SAMPLES, HELD, epochs=15, seed=0, batch_size=16, lr=3e-3))
    assert distance(slim, dense) < before / 4


def test_what_comes_back_are_weights_of_the_pruned_model_that_changed():
    slim, dense = cut(), net()
    held = {t.name: onnx.numpy_helper.to_array(t) for t in slim.whole().graph.initializer}
    before = slim.whole().SerializeToString()
    values = distilled(slim, dense, SAMPLES, HELD, epochs=1, seed=0)
    assert slim.whole().SerializeToString() == before
    assert set(values) == {*WEIGHTS} - {"mean", "var"}
    for name, value in values.items():
        assert (value.dtype, value.shape) == (held[name].dtype, held[name].shape)
        assert not np.array_equal(value, held[name])


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    slim, dense = cut(), net()
    once, again, other = (distilled(slim, dense, SAMPLES, HELD, epochs=2, seed=seed) for seed in (3, 3, 4))
    assert {k: v.tobytes() for k, v in once.items()} == {k: v.tobytes() for k, v in again.items()}
    assert any(once[name].tobytes() != other[name].tobytes() for name in once)


def test_labels_are_not_looked_at():
    slim, dense = cut(), net()
    labelled = from_arrays({"x": IMAGES, "y": np.zeros(256, int)}, [("x", np.float32, (None, 3, 8, 8))])
    with_them, without = (distilled(slim, dense, data, HELD, epochs=1, seed=0) for data in (labelled, SAMPLES))
    assert all(np.array_equal(with_them[name], without[name]) for name in without)


def test_images_are_mixed_unless_none_is_asked_for():
    mixed, plain = (
        distilled(cut(), net(), SAMPLES, HELD, epochs=1, seed=0, augment=augment) for augment in ("cutmix", "none")
    )
    assert any(not np.array_equal(mixed[name], plain[name]) for name in plain)
    with pytest.raises(TrainingError, match="augment 'blur' is unknown"):
        distilled(cut(), net(), SAMPLES, HELD, epochs=1, seed=0, augment="blur")


def test_samples_that_need_more_room_are_learned_from_in_turn(monkeypatch):
    slim, dense = cut(), net()
    whole = distilled(slim, dense, SAMPLES, HELD, epochs=1, seed=0)
    sizes = []

    def outputs_of(module: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        sizes.append(len(batch))
        return evaluate.outputs_of(module, batch)

    monkeypatch.setattr(teaching, "outputs_of", outputs_of)
    monkeypatch.setattr(teaching, "KEPT", 1)
    alone = distilled(slim, dense, SAMPLES, HELD, epochs=1, seed=0)
    assert set(sizes) == {1}
    assert set(alone) == set(whole)
    for name, value in alone.items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-3, atol=1e-5)


def test_a_prescribed_batch_is_kept_to():
    slim, dense = cut(), net()
    for model in (slim, dense):
        for value in (*model.light.graph.input, *model.light.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 2
    few = from_arrays({"x": IMAGES[:32]}, [("x", np.float32, (None, 3, 8, 8))])
    assert distilled(slim, dense, few, few, epochs=1, seed=0, batch_size=16)


def test_a_model_that_came_no_nearer_gives_nothing_and_says_so(caplog):
    assert distilled(cut(), net(), SAMPLES, HELD, epochs=1, seed=0, lr=1e3) == {}
    assert "distillation did not help: the " in caplog.text


def test_held_out_samples_say_whether_it_came_nearer(caplog):
    off = net(stem=WEIGHTS["stem"] + 0.1)
    black = from_arrays({"x": np.zeros((32, 3, 8, 8))}, [("x", np.float32, (None, 3, 8, 8))])  # there it is exact
    assert distilled(off, net(), SAMPLES, SAMPLES, epochs=1, seed=0)
    assert distilled(off, net(), SAMPLES, black, epochs=1, seed=0) == {}
    assert "the outputs' distance went from 0 to" in caplog.text


def test_the_original_itself_cannot_come_nearer(caplog):
    assert distilled(net(), net(), SAMPLES, HELD, epochs=1, seed=0) == {}
    assert "distillation did not help" in caplog.text


def test_constant_outputs_have_nothing_to_teach(caplog):
    nothing = np.zeros_like(WEIGHTS["head"])
    assert distilled(net(), net(head=nothing), SAMPLES, HELD, epochs=1, seed=0) == {}
    assert "the outputs are constant" in caplog.text


def test_samples_that_cannot_be_mixed_are_taken_as_they_are():
    def table(inner: np.ndarray, out: np.ndarray) -> Apart:
        text = """<ir_version: 8, opset_import: ["" : 18]>
        net (int64[n, 5] ids) => (float[n, 5, 3] y) { e = Gather(words, ids)  r = Relu(e)  y = MatMul(r, out) }"""
        model = parse_model(text)
        for name, values in (("words", inner), ("out", out)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return take_apart(model)

    words, out = RNG.normal(size=(20, 12)), RNG.normal(size=(12, 3))
    slim, dense = table(words[:, :9], out[:9]), table(words, out)
    data = from_arrays({"ids": RNG.integers(0, 20, (64, 5))}, [("ids", np.int64, (None, 5))])
    values = distilled(slim, dense, data, data, epochs=5, seed=0, batch_size=16)
    assert set(values) == {"words", "out"}


def test_importing_it_does_not_import_torch():
    code = "import sys, onnxprune.distilled; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
