"""What a model takes, by how many channels are open; no test depends on what anything takes here."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from small_models import conv_net, images
from text_nets import analysed

from onnxprune import slim
from onnxprune.apart import Apart, take_apart
from onnxprune.calibration import Calibration
from onnxprune.choose import Wish
from onnxprune.cli import main
from onnxprune.cost import LATENCY, CostModel
from onnxprune.errors import PlanError, ProviderError
from onnxprune.groups import Groups
from onnxprune.latency import Setting, Timed, choose
from onnxprune.plan import Plan
from onnxprune.profiling import Kernel, kernel_times

Times = Mapping[tuple[str, str], float]

WHOLE: Times = {("first", "Conv"): 4.0, ("second", "Conv"): 8.0, ("head", "Gemm"): 1.0}
HALF: Times = {("first", "Conv"): 3.0, ("second", "Conv"): 2.0, ("head", "Gemm"): 1.0}


def timed(found: Groups, *profiles: tuple[Sequence[int], Times]) -> Timed:
    kernels = [{Kernel(*key): time for key, time in times.items()} for _, times in profiles]
    return Timed(found, [counts for counts, _ in profiles], kernels, lambda plan: Apart(onnx.ModelProto()), Setting())


@pytest.fixture
def found() -> Groups:
    """Groups of 16 and of 32, in graph order: between the convolutions, and between the second and the Gemm."""
    return analysed(conv_net(16))


def test_between_what_was_measured_it_is_interpolated_by_the_work_that_is_left(found: Groups):
    costs = timed(found, ((16, 32), WHOLE), ((8, 16), HALF))
    assert costs.total[LATENCY] == costs.count(LATENCY, (16, 32)) == 13
    assert costs.count(LATENCY, (8, 16)) == 6
    assert costs.fraction(LATENCY, (8, 16)) == pytest.approx(6 / 13)
    # the first makes 12 of 16 channels, the second reads them: half and a third of the way to its half by half
    assert costs.count(LATENCY, (12, 32)) == pytest.approx(3.5 + (2 + 6 * (0.75 - 0.25) / 0.75) + 1)
    assert costs.count(LATENCY, (1, 1)) == 6, "less than was measured is not promised"
    assert costs.count("macs", (8, 32)) == CostModel(found).count("macs", (8, 32))


def test_a_channel_is_worth_what_it_saves(found: Groups):
    costs = timed(found, ((16, 32), WHOLE), ((8, 16), HALF))
    first, second = costs.unit_costs(LATENCY, (16.0, 32.0))
    assert first == pytest.approx((costs.count(LATENCY, (16, 32)) - costs.count(LATENCY, (14, 32))) / 2)
    assert first > second > 0, "the first group's are made by one and read by the other"


def test_times_that_noise_made_rise_do_not_fall_with_more_work(found: Groups):
    noisy = {**HALF, ("first", "Conv"): 5.0}
    costs = timed(found, ((16, 32), WHOLE), ((8, 16), noisy))
    assert costs.count(LATENCY, (16, 32)) == 5 + 8 + 1


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("second", "Conv"),
        ("c_nchwc", "Conv"),  # named after what it makes
        ("d_nchwc", "Conv"),  # with the Relu behind it
        ("d", "FusedConv"),
    ],
)
def test_a_kernel_is_known_by_its_name_or_by_what_it_makes(found: Groups, name: str, op: str):
    costs = timed(found, ((16, 32), {(name, op): 8.0}), ((8, 16), {(name, op): 2.0}))
    assert costs.count(LATENCY, (12, 32)) == pytest.approx(2 + 6 * (0.75 - 0.25) / 0.75)


def test_what_is_no_product_goes_by_what_it_makes(found: Groups):
    costs = timed(found, ((16, 32), {("relu2", "Relu"): 3.0}), ((8, 16), {("relu2", "Relu"): 1.0}))
    assert costs.count(LATENCY, (8, 32)) == 3
    assert costs.count(LATENCY, (16, 24)) == 2


def test_what_has_another_name_goes_by_all_macs(found: Groups):
    costs = timed(found, ((16, 32), {("ReorderInput_token_7", "ReorderInput"): 3.0}), ((8, 16), {}))
    left = costs.fraction("macs", (12, 32)), costs.fraction("macs", (8, 16))
    assert costs.count(LATENCY, (12, 32)) == pytest.approx(3 * (left[0] - left[1]) / (1 - left[1]))


# ---- plans


class Machine(Timed):
    """Takes a fixed time more than is expected, and tells how often it was asked."""

    overhead = 4.0
    tried = 0

    def measured(self, plan: Plan) -> float:
        self.tried += 1
        whole, left = (self.count(LATENCY, n) + self.overhead for n in (self.sizes, plan.counts(self.groups)))
        return float(left / whole)


@pytest.fixture
def machine() -> Machine:
    found, times = analysed(conv_net(64)), []
    for width in (64, 32, 16, 8):
        part = width / 64
        times.append({Kernel("first", "Conv"): 4 * part, Kernel("second", "Conv"): 8 * part**2})
    counts = [(n, 2 * n) for n in (64, 32, 16, 8)]
    return Machine(found, counts, times, lambda plan: Apart(onnx.ModelProto()), Setting())


def scores(found: Groups) -> dict[str, np.ndarray]:
    return {group.name: np.arange(group.size, dtype=float) for group in found}


@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5])
def test_plans_are_timed_until_one_is_as_fast_as_asked(machine: Machine, ratio: float):
    plan = choose(machine.groups, machine, scores(machine.groups), Wish(ratio, LATENCY, multiple_of=1))
    tried = machine.tried
    assert abs(machine.measured(plan) - ratio) <= 0.01
    assert 1 < tried <= 6, "the first is too slow, by what is not expected"


def test_what_cannot_be_reached_is_said(machine: Machine, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        plan = choose(machine.groups, machine, scores(machine.groups), Wish(0.1, LATENCY, multiple_of=1))
    (said,) = caplog.messages
    assert said.startswith("asked for 0.100 of the latency, reached 0.2")
    assert sum(plan.counts(machine.groups)) < 24, "of 192"


def test_other_counts_are_chosen_by_as_ever(machine: Machine):
    wish = Wish(0.5, "macs", multiple_of=1)
    plan = choose(machine.groups, machine, scores(machine.groups), wish)
    assert machine.tried == 0
    assert machine.fraction("macs", plan.counts(machine.groups)) == pytest.approx(0.5, abs=0.02)


# ---- in onnxruntime


def test_kernels_are_timed_by_model():
    models = [take_apart(conv_net(width)) for width in (16, 4)]
    times = kernel_times(models, threads=1)
    assert len(times) == 2 and all(time >= 0 for one in times for time in one.values())
    for one in times:
        assert sum("Conv" in kernel.op for kernel in one) == 2
        assert Kernel("head", "Gemm") in one


def told(**options: Any) -> dict[str, Any]:
    return {"ratio": 0.6, "by": LATENCY, "threads": 1, **options}


def test_slim_by_latency_is_exact_and_says_what_is_left_of_it():
    result = slim(conv_net(32), **told())
    assert result.verified.equal and result.by == LATENCY and result.asked == 0.6
    assert result.kept[LATENCY] > 0 and result.kept["macs"] < 1


def test_with_inputs_sensitivity_is_held_against_latency():
    data = Calibration({"image": images(64)})
    result = slim(conv_net(32), calibration=data, distill=0, **told())
    assert result.verified.equal and result.recovery["repaired"] <= result.recovery["cut"]
    assert result.kept[LATENCY] > 0


def test_it_is_typed_as_any_other_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_net(32), "model.onnx")
    line = "slim model.onnx --ratio 0.6 --by latency --threads 1 --batch 4 --json"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["by"] == LATENCY and set(said["kept"]) == {"channels", "params", "macs", "bytes", LATENCY}


def test_where_it_cannot_be_measured_it_says_so():
    with pytest.raises(ProviderError, match="unknown provider 'npu'"):
        slim(conv_net(32), **told(provider="npu"))
    with pytest.raises(PlanError, match="batch 0 is none to time"):
        slim(conv_net(32), **told(batch=0))
    with pytest.raises(PlanError, match="by 'speed' is unknown; choose one of channels, params, macs, latency"):
        slim(conv_net(32), **told(by="speed"))
