import gc
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from gpu import needs_cuda, needs_no_cuda
from onnx_text import RELU, parsed

from onnxprune.bench import BenchResult, Speedup, Timing, _interleaved, bench, ratio_of_medians
from onnxprune.errors import DataError, ModelError, ProviderError


def products(count: int, batch: str = "N") -> onnx.ModelProto:
    """A chain of `count` matrix products."""
    nodes = " ".join(f"v{i + 1} = MatMul(v{i}, w)" for i in range(count))
    model = parsed(f"net (float[{batch},128] v0) => (float[{batch},128] v{count}) {{ {nodes} }}")
    weight = np.eye(128, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "large.onnx", tmp_path / "small.onnx"]
    for path, count in zip(paths, (24, 2), strict=True):
        onnx.save(products(count), path)
    return paths


@pytest.fixture(scope="module")
def measured():
    return bench([products(24), products(2)], threads=1, batch=16, runs=40)


def test_the_json_has_the_documented_fields_and_survives_a_round_trip(measured):
    found = json.loads(json.dumps(measured.to_json()))
    assert found == measured.to_json()
    assert list(found) == ["machine", "provider", "threads", "batch", "models", "speedup"]
    assert list(found["models"][0]) == [
        "path", "median_ms", "p10_ms", "p90_ms", "p99_ms", "runs", "peak_mib"
    ]  # fmt: skip
    assert list(found["speedup"][0]) == ["of", "over", "ratio", "low", "high"]
    assert (found["provider"], found["threads"], found["batch"]) == ("cpu", 1, 16)
    assert "onnxruntime" in found["machine"]


def test_percentiles_are_ordered_and_runs_are_as_asked(measured):
    for timing in measured.models:
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.runs == 40


def test_the_speedup_is_the_ratio_of_the_reported_medians(measured):
    (entry,) = measured.speedup
    assert entry.low <= entry.ratio <= entry.high
    assert entry.ratio == pytest.approx(measured.models[0].median_ms / measured.models[1].median_ms)


def test_every_later_model_is_compared_with_the_first_by_path(files):
    result = bench([files[0], files[1], str(files[0])], runs=5, memory=False)
    names = [str(files[0]), str(files[1]), str(files[0])]
    assert [timing.path for timing in result.models] == names
    assert [(entry.of, entry.over) for entry in result.speedup] == [(n, names[0]) for n in names[1:]]
    assert all(timing.peak_mib is None for timing in result.models)


def test_one_model_alone_has_no_speedup(files):
    result = bench(files[:1], runs=5, memory=False)
    assert result.speedup == ()
    assert len(result.models) == 1


def test_each_round_runs_every_model_once_in_changing_order():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    times = _interleaved(calls, 50, None, 0, None)
    rounds = [tuple(order[i : i + 3]) for i in range(0, 150, 3)]
    assert times.shape == (3, 50)
    assert {frozenset(each) for each in rounds} == {frozenset("abc")}
    assert len(set(rounds)) == 6


def test_a_limit_in_seconds_still_leaves_twenty_rounds_and_reports_progress():
    seen = []
    times = _interleaved([lambda: None], None, 1e-9, 0, seen.append)
    assert times.shape == (1, 20)
    assert seen == sorted(seen) and seen[-1] == 1


def test_runs_and_seconds_together_stop_at_the_first_met():
    assert _interleaved([lambda: None], 30, 60.0, 0, None).shape == (1, 30)
    assert _interleaved([lambda: None], 3, 1e-9, 0, None).shape == (1, 3)


def test_garbage_collection_is_back_on_after_a_failed_run():
    def fail():
        assert not gc.isenabled()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        _interleaved([fail], 1, None, 0, None)
    assert gc.isenabled()


def test_the_ratio_is_of_the_medians_and_ignores_outliers():
    first, later = np.full(101, 6.0), np.full(101, 2.0)
    first[:10], later[-10:] = 1000, 1000
    assert ratio_of_medians(first, later) == (3, 3, 3)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        disturbance = 1 + 0.2 * rng.random(60)  # what a round shares
        first = 2 * disturbance * (1 + 0.05 * rng.standard_normal(60))
        later = disturbance * (1 + 0.05 * rng.standard_normal(60))
        _, low, high = ratio_of_medians(first, later)
        hits += low <= 2 <= high
    assert hits >= 50


def test_pairing_makes_the_interval_narrower_than_the_shared_disturbance():
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.uniform(1, 2, 20), 10)
    _, low, high = ratio_of_medians(2 * drift, drift)
    assert (low, high) == (pytest.approx(2), pytest.approx(2))


def test_static_models_fix_the_batch_of_the_others():
    assert bench([products(1), products(1, "4")], runs=1, memory=False).batch == 4
    assert bench([products(1)], runs=1, memory=False).batch == 1


@pytest.mark.parametrize(
    ("models", "batch", "message"),
    [
        ([products(1, "4")], 8, r"models\[0\]: takes batches of 4 only and 8 were asked for"),
        ([products(1, "4"), products(1, "2")], None, r"models\[1\]: .* of 2 only and another model takes 4"),
    ],
)
def test_a_batch_that_a_model_cannot_take_is_refused(models, batch, message):
    with pytest.raises(DataError, match=message):
        bench(models, batch=batch, runs=1, memory=False)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"runs": 0}, {"warmup": -1}, {"seconds": 0}, {"seconds": float("nan")}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(DataError, match=r"give .* or more|give more than 0"):
        bench([RELU], **wrong)


def test_no_model_at_all_is_refused():
    with pytest.raises(DataError, match="at least one"):
        bench([])


def test_a_model_that_fails_on_its_inputs_is_named_with_their_shapes():
    model = parsed("net (float[N,3,h] x, int64[1] to) => (float[N,a] y) { y = Reshape<allowzero=1>(x, to) }")
    with pytest.raises(ModelError, match=r"models\[0\]: .* cannot run it on x \[1, 3, 32\].*--dim AXIS=SIZE"):
        bench([model], runs=1)


def test_providers_are_checked_before_anything_runs(files):
    with pytest.raises(ProviderError, match="unknown provider 'npu'"):
        bench(files, provider="npu")


@needs_no_cuda
def test_cuda_without_a_cuda_onnxruntime_is_one_clear_error(files):
    with pytest.raises(ProviderError, match="pip install onnxruntime-gpu"):
        bench(files, provider="cuda")


@needs_cuda
def test_cuda_times_the_models_on_the_gpu(files):
    result = bench(files, provider="cuda", batch=4, runs=10)
    assert result.provider == "cuda"
    assert all(timing.median_ms > 0 and timing.peak_mib is None for timing in result.models)


def test_the_table_shows_every_model_with_its_ratio():
    timing = Timing("model.onnx", 2.0, 1.9, 2.1, 3.0, 100, 12.34)
    result = BenchResult(
        "a machine",
        "cpu",
        None,
        1,
        (timing, replace(timing, path="slim.onnx", median_ms=1.0, peak_mib=None)),
        (Speedup("slim.onnx", "model.onnx", 2.0, 1.9, 2.1),),
    )
    head, titles, first, second = result.table().splitlines()
    assert head == "a machine; cpu, onnxruntime's own number of threads, batch 1"
    assert titles.split()[:2] == ["model", "median"]
    assert "2.000 ms" in first and "12.3 MiB" in first
    assert second.endswith("2.00x (1.90 to 2.10)")
