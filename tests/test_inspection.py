import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_text import RELU
from small_models import conv_net, images
from text_nets import analysed, net, sizes

from onnxprune import gate, inspect, model
from onnxprune.calibration import Calibration
from onnxprune.errors import DataError
from onnxprune.inspection import GroupFacts, Inspection

MODELS = Path(__file__).parents[1] / "models" / "digits"


def of(found: Inspection, name: str) -> dict[str, object]:
    (group,) = (group for group in found.to_json()["groups"] if group["name"] == name)
    return group


def mixed() -> onnx.ModelProto:
    """The channels of w1 can be pruned; those of w2 meet an op without a rule, and behind it no shape is known."""
    proto = net(
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y) {
            a = Conv(x, w1)  b = Conv(a, w2)  c = acme.Mix(b)  d = Conv(c, w3)  y = Conv(d, w4)
        }""",
        w1=(8, 3, 1, 1),
        w2=(8, 8, 1, 1),
        w3=(8, 8, 1, 1),
        w4=(2, 8, 1, 1),
    )
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    return proto


def test_a_model_is_told_by_its_costs():
    found = inspect(conv_net())
    assert found.params == 8 * 27 + 8 + 16 * 72 + 3 * 16 + 3
    assert found.macs == 8 * 64 * 27 + 16 * 9 * 72 + 3 * 16


@pytest.mark.parametrize("file", ["digits.onnx", "digits_folded.onnx"])
def test_the_size_and_the_name_are_the_files(file: str):
    found = inspect(MODELS / file)
    assert found.model == str(MODELS / file)
    assert found.bytes == (MODELS / file).stat().st_size


def test_a_model_in_memory_is_told_by_its_graph():
    found = inspect(conv_net())
    assert found.model == "conv_net"
    assert found.bytes > 4 * found.params


def test_every_prunable_group_is_listed_with_its_axes():
    found = inspect(conv_net())
    first = of(found, "first")
    assert (first["size"], first["prunable"], first["frozen_because"]) == (8, True, None)
    assert {"tensor": "first.weight", "axis": 0} in first["members"]
    assert {"tensor": "second.weight", "axis": 1} in first["members"]
    assert 0 < first["macs_share"] <= 1 and 0 < first["params_share"] <= 1


@pytest.mark.parametrize("by", ["macs_share", "params_share"])
def test_a_share_is_all_that_a_group_has_a_part_in(by: str):
    first, head = (of(inspect(conv_net()), name)[by] for name in ("first", "head.weight[0]"))
    total = {"macs_share": 8 * 64 * 27 + 16 * 9 * 72 + 48, "params_share": 8 * 27 + 8 + 16 * 72 + 51}[by]
    owned = {"macs_share": (8 * 64 * 27 + 16 * 9 * 72, 48), "params_share": (8 * 27 + 8 + 16 * 72, 51)}[by]
    assert first == pytest.approx(owned[0] / total)
    assert head == pytest.approx(owned[1] / total)


def test_a_share_is_never_more_than_all():
    """A square weight between the same channels is theirs once, not twice."""
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, first)  b = Conv(a, square)  c = Add(a, b)  y = Conv(c, last)
        }""",
        first=(32, 3, 1, 1), square=(32, 32, 1, 1), last=(2, 32, 1, 1),
    )  # fmt: skip
    (group,) = (group for group in inspect(proto).groups if group.prunable)
    assert (group.macs_share, group.params_share) == (1.0, 1.0)


def test_the_whole_is_what_all_groups_have_a_part_in():
    found = inspect(mixed())
    assert (found.prunable.channels, found.prunable.params) == (8, pytest.approx((24 + 64) / 168))
    assert found.at_half.channels == 4
    assert found.at_half.params == pytest.approx((12 + 32 + 64 + 16) / 168)
    nothing = inspect(RELU)
    assert (nothing.prunable.channels, nothing.prunable.macs, nothing.at_half.macs) == (0, 0, 1)


def test_layers_that_make_and_read_a_group_are_named():
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,8] y) {
            a = Conv(x, stem)  b = BatchNormalization(a, s, t, m, v)  c = Conv<group = 8>(b, deep)
            d = Conv(c, up)  e = Relu(d)  f = Conv(e, down)  g = Add(c, f)  h = GlobalAveragePool(g)
            i = Flatten(h)  y = Gemm(i, head)
        }""",
        stem=(8, 3, 1, 1), deep=(8, 1, 1, 1), up=(16, 8, 1, 1), down=(8, 16, 1, 1), head=(8, 8),
        s=(8,), t=(8,), m=(8,), values={"v": np.ones(8, np.float32)},
    )  # fmt: skip
    spine, inner = (group for group in inspect(proto).groups if group.prunable)
    assert (spine.made_by, spine.read_by) == (("stem", "deep", "down"), ("up", "head"))
    assert (inner.made_by, inner.read_by) == (("up",), ("down",))


def test_every_frozen_group_and_lock_says_what_to_do():
    found = inspect(mixed())
    assert all(lock.advice for lock in found.frozen)
    assert {group.name: group.advice is None for group in found.groups} == {
        group.name: group.prunable for group in found.groups
    }
    (lock,) = (lock for lock in found.frozen if lock.op == "Mix")
    assert "onnxprune/ops/README.md" in lock.advice


def test_frozen_channels_of_weights_are_listed_with_the_reason():
    found = of(inspect(conv_net()), "head.weight[0]")
    assert found["prunable"] is False
    assert found["frozen_because"] == "'logits' is an output of the model"
    assert found["size"] == 3


def test_an_unknown_op_is_named_with_the_share_that_it_locks():
    found = inspect(mixed())
    (lock,) = (lock for lock in found.frozen if lock.op == "Mix")
    assert lock.because == "Mix 'mix2': has no axis rule"
    assert lock.params_share == pytest.approx(64 / (24 + 64 + 64 + 16))  # its output has no known shape
    assert {group.name for group in found.groups if group.prunable} == {"w1"}


def test_locks_come_largest_first():
    shares = [lock.params_share for lock in inspect(mixed()).frozen]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) > 1


def test_a_gated_model_is_seen_without_its_gates():
    plain, gated = inspect(conv_net()).to_json(), inspect(gate(conv_net()).model).to_json()
    assert {key: plain[key] for key in ("macs", "params", "groups", "frozen")} == {
        key: gated[key] for key in ("macs", "params", "groups", "frozen")
    }


def test_groups_are_those_that_slim_prunes():
    found = inspect(MODELS / "digits.onnx")
    prunable = {group.name: group.size for group in found.groups if group.prunable}
    assert prunable == sizes(analysed(onnx.load(MODELS / "digits.onnx")))


def test_a_model_without_weights_is_told_as_well():
    found = inspect(RELU)
    assert (found.macs, found.params, found.groups) == (0, 0, ())


@pytest.mark.parametrize("sensitivity", [None, Calibration({"image": images(8)})], ids=["told", "measured"])
def test_nothing_is_changed(sensitivity: Calibration | None):
    proto = conv_net()
    inspect(proto, sensitivity=sensitivity)
    assert proto == conv_net()
    assert model.to_proto(model.load(proto)) == model.to_proto(model.load(conv_net()))


def test_the_document_is_plain_json():
    document = inspect(mixed()).to_json()
    assert json.loads(json.dumps(document)) == json.loads(json.dumps(document, default=str))
    assert document.keys() == {
        "model", "macs", "params", "bytes", "groups", "frozen", "prunable", "at_half",
        "measured",
    }  # fmt: skip
    assert {tuple(group) for group in document["groups"]} == {
        ("name", "size", "members", "prunable", "frozen_because", "macs_share", "params_share", "made_by", "read_by",
         "advice", "sensitivity")
    }  # fmt: skip
    assert {tuple(lock) for lock in document["frozen"]} == {("because", "op", "params_share", "advice")}


# ---- sensitivity


IMAGES = Calibration({"image": images(24)})


def measured(proto: onnx.ModelProto, calibration: Calibration = IMAGES, **more: int) -> dict[str, GroupFacts]:
    return {group.name: group for group in inspect(proto, sensitivity=calibration, **more).groups if group.prunable}


def with_weights(proto: onnx.ModelProto, **changed: tuple[tuple[slice, ...], float]) -> onnx.ModelProto:
    """The model with these entries of its tensors (`_` for `.`) set to a number."""
    for tensor in proto.graph.initializer:
        if (change := changed.get(tensor.name.replace(".", "_"))) is not None:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[change[0]] = change[1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto


def test_sensitivity_is_measured_only_where_it_is_asked_for():
    found = inspect(conv_net())
    assert found.measured is None
    assert [group.sensitivity for group in found.groups] == [()] * len(found.groups)


def test_every_prunable_group_is_measured_from_all_of_its_channels_down():
    found = inspect(conv_net(), sensitivity=IMAGES)
    for group in found.groups:
        kept = [width.kept for width in group.sensitivity]
        assert (kept[:1] == [group.size]) is group.prunable
        assert kept == sorted(set(kept), reverse=True)
    assert found.measured is not None
    assert (found.measured.inputs, found.measured.outputs) == (24, {"logits": "logits"})


def test_a_width_costs_what_is_left_of_the_whole_model():
    group = measured(conv_net())["first"]
    macs, params = 8 * 64 * 27 + 16 * 9 * 72 + 48, 8 * 27 + 8 + 16 * 72 + 51
    for width in group.sensitivity:
        assert width.macs == pytest.approx((width.kept * (64 * 27 + 16 * 9 * 9) + 48) / macs)
        assert width.params == pytest.approx((width.kept * (27 + 1 + 16 * 9) + 51) / params)


def test_outputs_move_further_the_fewer_channels_are_left():
    for group in measured(conv_net()).values():
        moved = [width.discrepancy for width in group.sensitivity]
        assert moved[0] == 0 < moved[1] < moved[-1]


def test_channels_that_nobody_weighs_cost_nothing_and_go_first():
    """The head reads no more than the first four of the second layer's sixteen channels."""
    proto = with_weights(conv_net(), head_weight=(np.s_[:, 4:], 0.0))
    moved = {width.kept: width.discrepancy for width in measured(proto)["second"].sensitivity}
    assert all(moved[kept] < 1e-9 for kept in moved if kept >= 4)
    assert moved[2] > 1e-4


def test_a_group_that_says_nothing_can_be_narrowed_for_nothing():
    """A layer that makes zeros."""
    proto = with_weights(conv_net(), head_weight=(np.s_[:, :], 0.0), head_bias=(np.s_[:], 0.0))
    side = net(
        """net (float[N,3,4,4] x) => (float[N,4] y) {
            a = Conv(x, live)  b = Conv(x, dead)  c = Conv(a, wa)  d = Conv(b, wb)  e = Add(c, d)
            f = GlobalAveragePool(e)  y = Flatten(f)
        }""",
        live=(8, 3, 1, 1), wa=(4, 8, 1, 1), wb=(4, 8, 1, 1), values={"dead": np.zeros((8, 3, 1, 1), np.float32)},
    )  # fmt: skip
    inputs = np.random.default_rng(0).normal(size=(16, 3, 4, 4)).astype(np.float32)
    found = measured(side, Calibration({"x": inputs}))
    assert max(width.discrepancy for width in found["dead"].sensitivity) < 1e-9
    assert max(width.discrepancy for width in found["live"].sensitivity) > 1e-2
    with pytest.raises(DataError, match="no output holds floating-point numbers that differ"):
        measured(proto)


def test_the_same_seed_measures_the_same():
    few = Calibration({"image": images(24)}, samples=8)
    a, b, c = (measured(conv_net(), few, seed=seed) for seed in (0, 0, 1))
    assert a == b != c


def test_the_inputs_are_no_more_than_asked_for():
    found = inspect(conv_net(), sensitivity=Calibration({"image": images(24)}, samples=4))
    assert found.measured is not None and found.measured.inputs == 4


def test_gates_of_the_file_have_no_part_in_the_sensitivity():
    assert measured(gate(conv_net()).model) == measured(conv_net())


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(DataError):
        inspect(conv_net(), sensitivity=Calibration({"image": images(8)[:, :2]}))


def test_a_model_without_groups_has_no_sensitivity():
    found = inspect(RELU, sensitivity=Calibration({"x": np.ones((4, 3), np.float32)}))
    assert (found.measured, found.groups) == (None, ())


def test_the_document_holds_no_number_that_json_lacks():
    found = inspect(conv_net(), sensitivity=IMAGES)
    (first, *rest) = found.groups
    width = replace(first.sensitivity[-1], discrepancy=float("inf"))
    found = replace(found, groups=(replace(first, sensitivity=(*first.sensitivity[:-1], width)), *rest))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["groups"][0]["sensitivity"][-1]["discrepancy"] is None
    assert document["groups"][0]["sensitivity"][0] == {"kept": 8, "macs": 1.0, "params": 1.0, "discrepancy": 0.0}
