"""A run meets its budget, repeats itself, survives interruption, and writes what it evaluated."""

import json
import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_net import small_model

import onnxprune
from onnxprune import gates
from onnxprune import model as files
from onnxprune.cost import CostModel
from onnxprune.errors import OutputError, TrainingError
from onnxprune.groups import find
from onnxprune.training import Settings, train

FAST = Settings(
    ratio=0.4,
    multiple_of=1,
    by="macs",
    epochs=3,
    batch_size=32,
    ranking_batches=8,
    validation=0.25,
    device="cpu",
    report_every=1,
)


def arrays(model):
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


def assert_same(one, other):
    ours, theirs = arrays(one), arrays(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def opened(model):
    return {name[5:]: int((w > 0).sum()) for name, w in arrays(model).items() if name in ("gate/a", "gate/b")}


@pytest.fixture(scope="module")
def fit(trained_cnn, toy_costs, labelled):
    """Train the trained net, or another, with FAST settings but for those given."""

    def run(model=trained_cnn, data=labelled, progress=None, resume=False, context=None, **changed):
        settings = replace(FAST, **changed)
        return train(model, toy_costs, data, settings, progress=progress, resume=resume, context=context)

    return run


@pytest.fixture(scope="module")
def outcome(fit):
    return fit()


def test_the_budget_is_met_and_the_accuracy_kept(outcome, toy_costs):
    finest = min(toy_costs.unit_costs("macs", outcome.kept.values())) / toy_costs.count(
        "macs", toy_costs.sizes
    )
    assert 0.4 - finest < outcome.reached <= 0.4
    assert outcome.after["accuracy"] > outcome.before["accuracy"] - 0.03
    assert not outcome.warnings


def test_the_written_gates_are_the_counted_ones(outcome, toy_costs):
    assert opened(outcome.model) == outcome.kept
    left = toy_costs.count("macs", list(outcome.kept.values()))
    assert outcome.reached == pytest.approx(left / toy_costs.count("macs", toy_costs.sizes))


def test_the_written_model_is_the_evaluated_one(outcome, labelled):
    _, held = labelled.split(FAST.validation, FAST.seed)
    session = onnxruntime.InferenceSession(
        outcome.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    which = np.arange(len(held))
    (logits,) = session.run(None, {"x": held.batch(which)[0]})
    assert (logits.argmax(1) == held.labels_of(which)).mean() == pytest.approx(outcome.after["accuracy"])
    logits = torch.from_numpy(logits)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(held.labels_of(which))).item()
    assert loss == pytest.approx(outcome.after["loss"], rel=1e-4)


def test_only_weights_statistics_and_gates_change(outcome, trained_cnn):
    changed = {
        name
        for name, value in arrays(outcome.model).items()
        if not np.array_equal(value, arrays(trained_cnn)[name])
    }
    assert changed == set(arrays(trained_cnn)) - {"laid_out", "gate/layout/open"}
    assert [n.SerializeToString() for n in outcome.model.graph.node] == [
        n.SerializeToString() for n in trained_cnn.graph.node
    ]


def test_the_history_has_an_entry_per_epoch_and_the_cost_stays_below_rho(fit):
    seen = []
    result = fit(progress=seen.append)
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    assert [p.step for p in seen] == list(range(1, seen[-1].steps + 1))
    assert all(p.reached <= p.rho + 1e-9 for p in seen)
    assert [p.frozen for p in seen].index(True) == round(seen[-1].steps / 3) - 1


def test_the_same_seed_gives_the_same_model_and_another_seed_another(outcome, fit):
    assert_same(fit().model, outcome.model)
    other = fit(seed=1)
    assert not np.array_equal(arrays(other.model)["conv2.weight"], arrays(outcome.model)["conv2.weight"])


def test_the_callers_random_numbers_are_left_alone(fit):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(epochs=1)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
@pytest.mark.parametrize(
    ("at", "number"),
    [(4, signal.SIGINT), (14, signal.SIGTERM)],
    ids=["while the gates train", "after the freeze"],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, at, number, optimizer, fit):
    folder = str(tmp_path / "run")
    told = {"augment": "crop-flip", "optimizer": optimizer}
    whole = fit(**told)

    def interrupt(progress):
        if progress.step == at:
            os.kill(os.getpid(), number)

    says = rf"interrupted after step {at + 1} of 33: go on with onnxprune train --resume .*run"
    with pytest.raises(TrainingError, match=says):
        fit(progress=interrupt, run_dir=folder, **told)
    resumed = fit(resume=True, run_dir=folder, **told)
    assert_same(resumed.model, whole.model)
    assert resumed.after == whole.after
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 34))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, outcome, fit):
    def die(progress):
        if progress.step == 27:
            raise SystemExit

    with pytest.raises(SystemExit):
        fit(progress=die, run_dir=str(tmp_path))
    seen = []
    resumed = fit(resume=True, progress=seen.append, run_dir=str(tmp_path))
    assert_same(resumed.model, outcome.model)
    assert seen[0].step == 23


def test_a_finished_run_resumes_to_its_outcome(tmp_path, fit):
    first = fit(epochs=1, run_dir=str(tmp_path))
    again = fit(epochs=1, run_dir=str(tmp_path), resume=True)
    assert_same(first.model, again.model)
    assert first.after == again.after


def test_an_interrupt_without_run_folder_says_that_nothing_was_kept(fit):
    def interrupt(progress):
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingError, match="without a run folder nothing was kept"):
        fit(progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_runs_are_not_mixed_up(tmp_path, fit):
    folder = str(tmp_path / "run")
    with pytest.raises(TrainingError, match="there is no run to resume here"):
        fit(epochs=1, run_dir=folder, resume=True)
    fit(epochs=1, run_dir=folder, context={"data": "d.npz"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["context"] == {"data": "d.npz"}
    with pytest.raises(OutputError, match="holds a run already"):
        fit(epochs=1, run_dir=folder)
    with pytest.raises(TrainingError, match="resume it as it was started"):
        fit(epochs=2, run_dir=folder, resume=True)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="cannot be read"):
        fit(epochs=1, run_dir=folder, resume=True)


def test_without_labels_the_original_is_the_teacher(unlabelled, fit):
    result = fit(data=unlabelled)
    assert 0.35 < result.reached <= 0.4
    assert next(iter(result.after)) == "agreement"
    assert result.before["agreement"] == 1
    assert result.after["agreement"] > 0.95
    first = result.history[0]["metrics"]["distillation"]
    assert result.after["distillation"] < first


def test_one_shot_and_fine_tune_freezes_before_the_first_step(fit):
    seen = []
    result = fit(ramp=0.0, epochs=1, progress=seen.append)
    assert all(p.frozen and p.reached == result.reached <= 0.4 for p in seen)


def test_finetuning_leaves_the_gates_as_they_are(outcome, fit):
    tuned = fit(outcome.model, method="finetune", epochs=1)
    assert tuned.kept == outcome.kept
    assert tuned.asked == tuned.reached == outcome.reached
    np.testing.assert_array_equal(arrays(tuned.model)["gate/a"], arrays(outcome.model)["gate/a"])


def test_given_gates_are_the_start_where_asked_for(outcome, fit):
    seen = []
    result = fit(outcome.model, start="given", ratio=0.3, epochs=1, progress=seen.append)
    assert 0.3 < seen[0].rho < outcome.reached
    assert result.reached <= 0.3


def test_a_penalty_that_misses_says_so(fit):
    result = fit(method="tgl", method_options={"budget": "penalty", "penalty": 1e-6})
    assert result.reached > 0.5
    assert "use the budget projection" in result.warnings[0]


def test_a_strong_penalty_reaches_its_tolerance_and_freezes(trained_cnn, toy_costs, labelled):
    settings = replace(
        FAST, method="tgl", gate_lr=0.01, epochs=6,
        method_options={"budget": "penalty", "penalty": 300.0, "clip": 10.0, "tolerance": 0.03},
    )  # fmt: skip
    result = train(trained_cnn, toy_costs, labelled, settings)
    assert result.history[-1]["frozen"]
    assert abs(result.reached - 0.4) <= 0.03


def test_a_ratio_below_the_floor_is_reported(fit):
    result = fit(ratio=0.05, floor_share=0.5, epochs=1)
    assert "the least channels per group" in result.warnings[0]
    assert result.kept == {"a": 12, "b": 20}


def test_a_diverging_run_stops_with_the_reason(fit):
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+ of 33: lower"):
        fit(lr=1e20, weight_decay=0.0)


def test_gates_that_are_not_the_groups_are_refused(trained_cnn, toy_costs, labelled):
    with pytest.raises(TrainingError, match="no gate for group 'z'"):
        train(trained_cnn, replace(toy_costs, names=("a", "z")), labelled, FAST)


def test_bfloat16_trains_and_what_is_written_is_float32(fit):
    result = fit(precision="bfloat16", epochs=1)
    assert arrays(result.model)["conv2.weight"].dtype == np.float32
    assert result.after["accuracy"] > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"},
        {"epochs": 0},
        {"lr": -1.0},
        {"ramp": 2.0},
        {"distill": 3.0},
        {"gate_lr": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [({}, "fisher"), ({"gate_lr": 0.1}, "tgl"), ({"start": "given"}, "tgl"), ({"method": "scp", "gate_lr": 1}, "scp")],
)
def test_a_method_left_open_is_the_one_that_can_do_what_is_asked(asked, chosen):
    assert Settings(**asked).chosen == chosen


def test_importing_training_does_not_import_torch():
    code = "import sys, onnxprune.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


KINDS = {
    "adamw": {"optimizer": "adamw", "lr": 0.003},
    "muon": {"optimizer": "muon", "lr": 0.01},
    "one-cycle with warm-up": {"schedule": "one-cycle", "warmup": 0.1},
    "step": {"schedule": "step"},
    "running mean": {"ema": 0.9},
    "accumulated": {"batch_size": 16, "accumulate": 2},
    "clipped": {"clip": 0.5},
    "float16": {"precision": "float16"},
    "augmented": {"augment": "crop,flip,mixup"},
    "workers": {"augment": "crop,flip", "workers": 2},
    "scp": {"method": "scp"},
    "tgl": {"method": "tgl"},
    "taylor": {"method": "finetune"},
    "two limits": {"limits": {"params": 0.5}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_however_it_trains_the_budget_is_met_and_the_net_still_works(small_net, kind):
    result = small_net(**KINDS[kind])
    assert 0.39 < result.reached <= 0.4
    assert result.after["accuracy"] > 0.9
    assert np.isfinite(np.concatenate([a.ravel() for a in arrays(result.model).values()])).all()


@pytest.fixture(scope="module")
def small_net(labelled):
    """The small net as a file, with the groups that it has, trained by FAST settings but for those given."""
    model = small_model()
    trained = onnxprune.train(
        model, dict(zip(("x", "y"), (labelled.columns[0].values, labelled.labels), strict=True)),
        ratio=1.0, method="finetune", start="given", epochs=6, batch_size=32, lr=0.05, task="classification",
        device="cpu",
    )  # fmt: skip

    def run(**changed):
        loaded = files.load(trained.model)
        gates.strip(loaded)
        groups = find(loaded)
        gates.insert(groups, {})
        return train(files.to_proto(loaded), CostModel(groups), labelled, replace(FAST, **changed))

    return run


def test_accumulated_batches_are_one_large_batch(small_net):
    whole, parts = (
        small_net(batch_size=size, accumulate=count, epochs=1, ranking_batches=2, method="finetune")
        for size, count in ((32, 1), (16, 2))
    )
    assert whole.kept == parts.kept
    assert whole.history[-1]["step"] == parts.history[-1]["step"]


def test_the_weights_mean_is_what_is_written(small_net):
    plain, mean = small_net(), small_net(ema=0.99)
    assert plain.kept == mean.kept
    ours, theirs = arrays(mean.model), arrays(plain.model)
    assert not np.array_equal(ours["linear.weight"], theirs["linear.weight"])
    distance = np.abs(ours["linear.weight"] - theirs["linear.weight"]).max()
    assert distance < 0.2 * np.abs(theirs["linear.weight"]).max()


def test_workers_change_nothing(small_net):
    assert_same(
        small_net(augment="crop,flip,mixup", epochs=1).model,
        small_net(augment="crop,flip,mixup", epochs=1, workers=1).model,
    )


def test_what_is_reported_is_in_the_folder(small_net, tmp_path):
    seen = event_accumulator(small_net(run_dir=str(tmp_path / "run"), limits={"params": 0.5}).run_dir)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in seen["train/loss"]] == [line["step"] for line in lines]
    assert [value for _, value in seen["budget/params"]] == pytest.approx([e["shares"]["params"] for e in lines])
    assert len(seen["metrics/accuracy"]) == 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["limits"] == {"params": 0.5}


def event_accumulator(folder):
    """What TensorBoard would show: (step, value) by name."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(Path(folder, "tensorboard").glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fisher", "tgl", "scp"])
def test_a_compiled_run_meets_the_budget_too(small_net, method):
    result = small_net(compile=True, method=method)
    assert 0.39 < result.reached <= 0.4
    assert result.after["accuracy"] > 0.9
