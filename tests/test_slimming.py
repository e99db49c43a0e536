import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_text import RELU
from small_models import conv_net, images
from strategies import random_model
from text_nets import analysed, net, sizes

from onnxprune import gate, gates, groups, model, slim, verify
from onnxprune.errors import LawError, ModelError, PlanError
from onnxprune.gates import TRAINED_KEY
from onnxprune.slimming import Slimmed

DIGITS = Path(__file__).parents[1] / "models" / "digits" / "digits.onnx"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("onnxprune"), "propagate", True)
    caplog.set_level(logging.WARNING, "onnxprune")
    return caplog


def widths(proto: onnx.ModelProto) -> dict[str, int]:
    """Output channels by weight."""
    return {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if len(tensor.dims) == 4}


# ---- the plain way


def test_half_of_the_channels_go_and_the_rest_computes_the_same():
    result = slim(conv_net(), ratio=0.5)
    assert widths(result.model) == {"first.weight": 4, "second.weight": 8}
    assert result.kept["channels"] == 0.5
    assert result.verified.equal and result.verified.inputs > 0
    assert verify(result.gated, result.model).equal
    onnx.checker.check_model(result.model, full_check=True)


def test_what_is_said_to_be_kept_is_kept():
    result = slim(conv_net(16), ratio=0.5, by="macs")
    before, after = (analysed(proto) for proto in (conv_net(16), result.model))
    from onnxprune.cost import CostModel

    for by in ("params", "macs"):
        assert result.kept[by] == pytest.approx(CostModel(after).total[by] / CostModel(before).total[by])


def test_the_bytes_are_those_of_the_file(tmp_path: Path):
    result = slim(DIGITS, tmp_path / "slim.onnx", ratio=0.5)
    assert result.kept["bytes"] == pytest.approx(
        (tmp_path / "slim.onnx").stat().st_size / DIGITS.stat().st_size, rel=0.02
    )


def test_a_slim_model_keeps_its_names_and_header():
    proto = conv_net()
    helper.set_model_props(proto, {"labels": "cat,dog,cow"})
    result = slim(proto, ratio=0.5).model
    assert [node.name for node in result.graph.node] == [node.name for node in proto.graph.node]
    assert result.graph.input == proto.graph.input and result.graph.output == proto.graph.output
    assert result.metadata_props == proto.metadata_props
    assert (result.ir_version, result.opset_import) == (proto.ir_version, proto.opset_import)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_float_types_are_slimmed_too(dtype: str):
    numpy_type = {"float16": np.float16, "double": np.float64}[dtype]
    rng = np.random.default_rng(0)
    proto = net(
        f"net ({dtype}[N,5] x) => ({dtype}[N,2] y) {{ a = MatMul(x, w1)  h = Relu(a)  y = MatMul(h, w2) }}",
        values={
            "w1": rng.normal(size=(5, 8)).astype(numpy_type),
            "w2": rng.normal(size=(8, 2)).astype(numpy_type),
        },
    )
    result = slim(proto, ratio=0.5)
    assert result.model.graph.initializer[0].dims == [5, 4]
    assert result.verified.tolerance == {"float16": 1e-2, "double": 1e-10}[dtype] or dtype == "double"


def test_a_slim_model_can_be_slimmed_again():
    """Its mended bounds, targets and index lists have names; the next ones must not be the same."""
    proto = net(
        """net (float[N,3,H,W] x) => (float[N,2,A,B] y)
        <int64[1] zero = {0}, int64[1] nine = {9}, int64[1] one = {1}, int64[1] step = {2},
         int64[4] halves = {0, 2, 9, -1}> {
            a = Conv(x, w1)  h = Relu(a)  s = Slice(h, zero, nine, one, step)  c = Conv(s, w2)
            d = Conv(h, w3)  y = Add(c, d)
        }""",
        w1=(40, 3, 3, 3),
        w2=(2, 5, 1, 1),
        w3=(2, 40, 1, 1),
    )
    once = slim(proto, ratio=0.8, multiple_of=1)
    twice = slim(once.model, ratio=0.8, multiple_of=1)
    thrice = slim(twice.model, ratio=0.7, multiple_of=1)
    assert not once.frozen and not twice.frozen and not thrice.frozen
    onnx.checker.check_model(thrice.model, full_check=True)
    assert once.kept["macs"] < 0.9 and twice.kept["macs"] < 0.9 and thrice.kept["macs"] < 0.9


def test_sizes_that_are_partly_computed_are_mended_again_and_again():
    proto = net(
        """net (float[N,3,H,W] x) => (float[N,2,A,B] y)
        <int64[1] zero = {0}, int64[2] last = {2, 3}, int64[1] two = {2}, int64[1] channels = {40}> {
            h = Conv(x, w1)  all = Shape(h)  n = Gather(all, zero)  hw = Gather(all, last)  double = Mul(hw, two)
            to = Concat<axis=0>(n, channels, double)  r = Resize<mode="nearest">(h, , , to)  y = Conv(r, w2)
        }""",
        w1=(40, 3, 3, 3),
        w2=(2, 40, 1, 1),
    )
    for _ in range(3):
        result = slim(proto, ratio=0.6, multiple_of=1)
        assert not result.frozen
        assert result.kept["channels"] < 0.7
        proto = result.model


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs_can_be_slimmed_again_and_again(seed: int):
    proto = random_model(seed)
    if not sizes(analysed(proto)):
        proto = conv_net()
    rounds = 0
    while sizes(analysed(proto)) and rounds < 3:
        result = slim(proto, ratio=0.7, multiple_of=1)
        assert result.verified.equal and not result.frozen
        proto, rounds = result.model, rounds + 1


def test_slim_needs_to_be_told_how_much():
    with pytest.raises(PlanError, match="no gate is closed; say how much to keep with --ratio"):
        slim(conv_net())


@pytest.mark.parametrize("verb", [lambda: slim(RELU, ratio=0.5), lambda: gate(RELU)], ids=["slim", "gate"])
def test_a_model_in_which_nothing_can_be_pruned_is_refused(verb: Any):
    with pytest.raises(PlanError, match="nothing can be pruned"):
        verb()


def test_a_gated_model_is_not_gated_again():
    with pytest.raises(ModelError, match="has gates already"):
        gate(gate(conv_net()).model)


def test_a_model_that_is_not_deterministic_is_refused():
    proto = net(
        """net (float[N,5] x) => (float[N,2] y) {
            a = MatMul(x, w1)  h = Relu(a)  z = MatMul(h, w2)  r = RandomNormalLike(z)  y = Add(z, r)
        }""",
        w1=(5, 8),
        w2=(8, 2),
    )
    with pytest.raises(LawError):
        slim(proto, ratio=0.5)


def test_the_model_taken_apart_is_checked_against_the_original(monkeypatch: pytest.MonkeyPatch):
    """A bug before the gates go in is no business of the law's two sides: both would have it."""
    prepare = groups.prepare

    def wrong(loaded: model.Model) -> Any:
        shapes = prepare(loaded)
        next(iter(loaded.graph.nodes)).inputs[1].values *= 1.01
        return shapes

    monkeypatch.setattr(groups, "prepare", wrong)
    with pytest.raises(LawError, match="taken apart and put together it differs from the original"):
        slim(conv_net(), ratio=0.5)
    with pytest.raises(LawError, match="with all gates open it differs from the original"):
        gate(conv_net())


def test_the_proof_runs_on_the_inputs_that_are_given():
    seen = []

    def feeds(proto: onnx.ModelProto) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(3):
            seen.append(proto.graph.name)
            yield {"image": images(2, seed=seed)}

    assert slim(conv_net(), ratio=0.5, feeds=feeds).verified.inputs == 6
    assert len(seen) == 6  # against the original, and against the slim model


# ---- plans


def test_a_plan_on_both_sides_of_the_law(tmp_path: Path):
    path = tmp_path / "plan.json"
    first = slim(conv_net(), ratio=0.4, save_plan=path)
    closed = gate(conv_net(), plan=path)
    second = slim(conv_net(), plan=path)
    assert second.model == first.model
    assert verify(closed.model, second.model).equal
    assert closed.max_rel_error <= 1e-6
    assert not verify(closed.model, conv_net()).equal


def test_the_saved_gated_counterpart_is_the_other_side(tmp_path: Path):
    result = slim(conv_net(), tmp_path / "slim.onnx", ratio=0.4, save_gated=tmp_path / "gated.onnx")
    assert verify(tmp_path / "gated.onnx", tmp_path / "slim.onnx").equal
    again = slim(tmp_path / "gated.onnx")
    assert again.model == result.model


# ---- trained gates


def trained(ratio: str | None = "0.5 channels") -> onnx.ModelProto:
    """A gated model whose gates keep channels 0-3 of the first layer and 8-15 of the second."""
    latents = {"first": np.linspace(0.7, -0.7, 8), "second": np.linspace(-0.5, 0.5, 16)}
    found = groups.find(model.load(conv_net()))
    gates.insert(found, latents)
    proto = model.to_proto(found.model)
    if ratio:
        proto.metadata_props.add(key=TRAINED_KEY, value=ratio)
    return proto


def kept(result: Slimmed) -> dict[str, list[int]]:
    return {entry["name"]: entry["kept"] for entry in result.plan["groups"]}


GATES = {"first": [0, 1, 2, 3], "second": list(range(8, 16))}


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_trained_gates_decide(ratio: float | None, warnings: pytest.LogCaptureFixture):
    result = slim(trained(), ratio=ratio)
    assert kept(result) == GATES
    assert (result.asked, result.by) == (0.5, "channels")
    assert result.verified.equal
    assert not warnings.records


def test_closed_gates_decide_whoever_closed_them():
    result = slim(trained(None))
    assert kept(result) == GATES
    assert result.asked is None


def test_another_ratio_than_the_trained_one_ranks_by_the_gates(warnings: pytest.LogCaptureFixture):
    result = slim(trained(), ratio=0.25, multiple_of=1)
    assert kept(result) == {"first": [0, 1], "second": [12, 13, 14, 15]}
    assert "not trained for this ratio" in warnings.text


def test_a_plan_overrides_the_gates(tmp_path: Path):
    slim(conv_net(), ratio=0.25, save_plan=tmp_path / "plan.json")
    result = slim(trained(), plan=tmp_path / "plan.json")
    assert {name: len(entries) for name, entries in kept(result).items()} == {"first": 2, "second": 4}
    assert result.asked is None


def test_a_slim_model_forgets_that_it_was_trained_gated():
    """Else the same ratio, asked of it again, would find its gates gone and keep everything."""
    first = slim(trained())
    assert not first.model.metadata_props
    second = slim(first.model, ratio=0.5, multiple_of=1)
    assert second.kept["channels"] == pytest.approx(0.5)


def test_open_gates_leave_the_choice_to_the_criterion():
    opened = gate(conv_net()).model
    assert slim(opened, ratio=0.5).model == slim(conv_net(), ratio=0.5).model


def test_gates_of_another_model_are_refused():
    proto = gate(conv_net()).model
    for tensor in proto.graph.initializer:
        if tensor.name == "gate/first":
            tensor.name = "gate/third"
    for node in proto.graph.node:
        node.input[:] = [name.replace("gate/first", "gate/third") for name in node.input]
    with pytest.raises(ModelError, match="gates 'third' fit no channel group"):
        slim(proto, ratio=0.5)


@pytest.mark.parametrize("change", ["shorter", "nan"])
def test_gates_that_cannot_be_read_are_refused(change: str):
    proto = trained()
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "gate/second")
    values = numpy_helper.to_array(tensor).copy()
    values = values[:5] if change == "shorter" else values * np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises((ModelError, PlanError)):
        slim(proto)
