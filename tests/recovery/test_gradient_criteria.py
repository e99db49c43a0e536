"""Channels ranked by gradients of the model's own outputs."""

from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import conv_net, images
from text_nets import net

from onnxprune import model as files
from onnxprune import slim
from onnxprune.calibration import Batches, Calibration
from onnxprune.errors import ConversionError, PlanError
from onnxprune.recovery import discrepancy
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.criteria import BY_INPUTS, scored
from onnxprune.recovery.discrepancy import discrepancies, heads
from onnxprune.session import open_session

GRADIENTS = ("taylor", "fisher")
READS = {"first": "second.weight", "second": "head.weight"}
"""By group of `conv_net` the weight that reads its channels, on axis 1."""


def opened(proto: onnx.ModelProto, data: dict[str, np.ndarray], seed: int = 0) -> tuple[Anatomy, Batches]:
    parts = files.export(files.load(proto))
    count = len(next(iter(data.values())))
    return Anatomy.of(parts, {}, seed), Calibration(data, None, count).draw(parts.light, seed)


def of_conv_net(
    proto: onnx.ModelProto, criterion: str, count: int = 64, seed: int = 0
) -> dict[str, np.ndarray]:
    return scored(*opened(proto, {"image": images(count)}, seed), criterion)


def scaled(
    proto: onnx.ModelProto, weight: str, channel: int, factor: float, axis: int = 1
) -> onnx.ModelProto:
    """With all that reads a channel multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values[(slice(None),) * axis + (channel,)] *= np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return copy


def moved(proto: onnx.ModelProto, other: onnx.ModelProto, feed: dict[str, np.ndarray]) -> float:
    """The mean discrepancy of another model's outputs, at temperature 1, of which the criteria are."""
    wanted, made = (open_session(model).run(None, feed) for model in (proto, other))
    with mock.patch.object(discrepancy, "TEMPERATURE", 1.0):
        return float(discrepancies(heads(wanted), made, wanted).mean())


def by_differences(
    proto: onnx.ModelProto, weight: str, channel: int, feed: dict[str, np.ndarray], axis: int = 1
) -> float:
    """The second derivative of the outputs' discrepancy to a channel's factor."""
    step = 0.01
    ways = [moved(proto, scaled(proto, weight, channel, 1 + s, axis), feed) for s in (-step, step)]
    return sum(ways) / step**2


def test_fisher_is_the_curvature_of_the_divergence_in_every_group():
    proto = conv_net()
    found = of_conv_net(proto, "fisher")
    for name, weight in READS.items():
        wanted = [by_differences(proto, weight, k, {"image": images(64)}) for k in range(len(found[name]))]
        np.testing.assert_allclose(found[name], wanted, rtol=0.05, atol=1e-6)


def test_taylor_estimates_the_same():
    taylor, fisher = (of_conv_net(conv_net(), criterion, count=2048) for criterion in GRADIENTS)
    for name in READS:
        assert np.corrcoef(taylor[name], fisher[name])[0, 1] > 0.8
        assert 0.6 < taylor[name].sum() / fisher[name].sum() < 1.6


LINEAR = "net (float[N,6] x) => (float[N,{out}] y) {{ h = Gemm(x, v)  r = Relu(h)  {last} }}"


@pytest.mark.parametrize(
    ("last", "out"),
    [("y = Gemm(r, w)", 1), ("s = Gemm(r, w)  y = Softmax<axis = 1>(s)", 5), ("y = Gemm(r, w)", 40)],
    ids=["values", "probabilities", "classes too many to sum over"],
)
def test_other_outputs_have_their_own_curvature(last: str, out: int):
    """Half of it for squared errors; but for the luck of the draw, where most of it is drawn."""
    proto = net(LINEAR.format(out=out, last=last), v=(6, 8), w=(8, out))
    data = {"x": np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)}
    anatomy, batches = opened(proto, data)
    found = np.concatenate(list(scored(anatomy, batches, "fisher").values()))
    wanted = []
    for k in range(8):
        wanted.append(by_differences(proto, "w", k, data, axis=0) / (2 if out == 1 else 1))
    np.testing.assert_allclose(found, wanted, rtol=0.05 if out == 5 else 0.5, atol=1e-4)
    assert found.sum() == pytest.approx(np.sum(wanted), rel=0.2)


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_a_channel_that_nothing_listens_to_is_worth_nothing(criterion: str):
    found = of_conv_net(scaled(conv_net(), "second.weight", 3, 0), criterion)
    assert found["first"][3] == 0
    assert (np.delete(found["first"], 3) > 0).sum() >= 6


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_the_same_seed_gives_the_same_scores(criterion: str):
    one, other = (of_conv_net(conv_net(), criterion, seed=5) for _ in range(2))
    for name in READS:
        np.testing.assert_array_equal(one[name], other[name])


def test_another_seed_draws_other_outputs():
    one, other = (of_conv_net(conv_net(), "taylor", seed=seed) for seed in (0, 1))
    assert (one["first"] != other["first"]).any()


@pytest.mark.parametrize("criterion", GRADIENTS)
@pytest.mark.parametrize("scope", ["global", "sensitivity"])
def test_slim_goes_by_them_and_proves_the_result(criterion: str, scope: str):
    calibration = Calibration({"image": images(64)}, None, 64)
    result = slim(
        conv_net(16), ratio=0.5, by="macs", multiple_of=1, scope=scope, criterion=criterion,
        calibration=calibration, distill=0,
    )  # fmt: skip
    assert result.verified.equal
    assert result.kept["macs"] == pytest.approx(0.5, abs=0.1)
    assert 0 < result.recovery["repaired"] <= result.recovery["cut"]


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_the_channel_that_nothing_listens_to_goes_first(criterion: str):
    calibration = Calibration({"image": images(64)}, None, 64)
    proto = scaled(conv_net(), "second.weight", 3, 0)
    plan = slim(
        proto, ratio=0.95, by="channels", multiple_of=1, scope="global", criterion=criterion,
        calibration=calibration, repair="none", distill=0,
    ).plan  # fmt: skip
    kept = next(group["kept"] for group in plan["groups"] if group["name"] == "first")
    assert kept == [0, 1, 2, 4, 5, 6, 7]


def test_a_prescribed_batch_is_fed_as_it_is():
    """Reshape says how many samples there are."""
    text = "net (float[24,6] x) => (float[24,3] y) { h = Gemm(x, v)  r = Relu(h)  z = Gemm(r, w)  y = Reshape(z, s) }"
    proto = net(text, v=(6, 8), w=(8, 3), values={"s": np.array([24, 3])})
    data = {"x": np.random.default_rng(1).normal(size=(24 * 12, 6)).astype(np.float32)}
    anatomy, batches = opened(proto, data)
    for criterion in GRADIENTS:
        found = scored(anatomy, batches, criterion)
        assert len(found) == 1 and all((scores > 0).any() for scores in found.values())


def test_a_model_that_is_sure_of_itself_has_scores():
    proto = net(
        LINEAR.format(out=9, last="y = Gemm(r, w)"),
        v=(6, 8),
        values={"w": 20 * np.eye(8, 9, dtype=np.float32)},
    )
    found = scored(
        *opened(proto, {"x": np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)}), "fisher"
    )
    assert all(np.isfinite(values).all() and values.any() for values in found.values())


def test_outputs_that_never_vary_are_refused():
    proto = net(
        LINEAR.format(out=3, last="y = Gemm(r, w)"), v=(6, 8), values={"w": np.zeros((8, 3), np.float32)}
    )
    with pytest.raises(PlanError, match="on these samples the outputs do not vary; take another criterion"):
        scored(*opened(proto, {"x": images(16)[:, 0, 0, :6]}), "fisher")


def test_what_pytorch_cannot_express_is_said_in_one_line():
    through_strings = "s = Gemm(r, w)  t = Cast<to = 8>(s)  y = Cast<to = 1>(t)"
    proto = net(LINEAR.format(out=3, last=through_strings), v=(6, 8), w=(8, 3))
    with pytest.raises(ConversionError, match=r"Cast-18: PyTorch has no element type STRING") as caught:
        scored(*opened(proto, {"x": images(16)[:, 0, 0, :6]}), "fisher")
    assert "\n" not in str(caught.value)


def test_every_criterion_is_in_the_help():
    from click.testing import CliRunner

    from onnxprune.cli import main

    said = " ".join(CliRunner().invoke(main, ["slim", "--help"]).stdout.split())
    assert f"on --data also {', '.join(BY_INPUTS)} (auto" in said
