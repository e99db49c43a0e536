import json

import pytest

from onnxprune.bench import BenchResult, Speedup
from onnxprune.errors import DataError, TargetMissed
from onnxprune.targets import check, fraction


def result(ratio: float, *, of: str = "out/slim.onnx", provider: str = "cpu", **settings) -> BenchResult:
    entry = Speedup(of, "model.onnx", ratio, ratio - 0.1, ratio + 0.1)
    threads, batch = settings.get("threads", 1), settings.get("batch", 8)
    return BenchResult("a machine", provider, threads, batch, (), (entry,))


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (0.05, 0.05), ("0%", 0), (0, 0)])
def test_a_share_is_read_with_and_without_percent(text, value):
    assert fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["five", "", "%", "100%", "1", "-5%", "nan", float("nan"), "5 percent"])
def test_what_is_no_share_says_how_to_write_one(text):
    with pytest.raises(DataError, match=r"write it as 5% or 0\.05"):
        fraction(text)


def test_a_speedup_is_met_at_the_bound_and_missed_below_it():
    check(result(1.5), min_speedup=1.5)
    with pytest.raises(TargetMissed, match=r"slim\.onnx is 1\.49x as fast as model\.onnx, asked for 1\.5x"):
        check(result(1.49), min_speedup=1.5)


def test_a_regression_is_a_loss_of_ratio_beyond_what_is_allowed():
    saved = result(2.0).to_json()
    check(result(1.9), baseline=saved, max_regression="5%")
    check(result(3.0), baseline=saved, max_regression=0)
    with pytest.raises(
        TargetMissed, match=r"1\.89x.*5\.5% below the 2\.00x of the baseline \(allowed: 5\.0%\)"
    ):
        check(result(1.89), baseline=saved, max_regression=0.05)


def test_models_are_matched_by_file_name_since_folders_differ_between_machines(tmp_path):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(result(2.0, of="/ci/build/slim.onnx").to_json()))
    check(result(2.0), baseline=path)
    check(result(2.0), baseline=str(path))
    with pytest.raises(DataError, match=r"baseline\.json: holds no speed-up of other\.onnx over model\.onnx"):
        check(result(2.0, of="other.onnx"), baseline=path)


def test_everything_missed_is_told_in_one_line():
    with pytest.raises(TargetMissed) as caught:
        check(result(1.0), min_speedup=1.5, baseline=result(2.0).to_json())
    assert "asked for 1.5x; " in str(caught.value) and "baseline" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", [{"provider": "cuda"}, {"threads": None}, {"batch": 1}])
def test_a_baseline_of_other_settings_cannot_be_compared(changed):
    (setting,) = changed
    with pytest.raises(DataError, match=f"the baseline: measured with {setting} .*: use the same for both"):
        check(result(2.0), baseline=result(2.0, **changed).to_json())


@pytest.mark.parametrize(
    "content", ["", "not json", "[]", "{}", '{"provider": "cpu", "threads": 1, "batch": 8, "speedup": [1]}']
)
def test_a_file_that_is_no_bench_is_refused(tmp_path, content):
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"baseline\.json: not the JSON of a bench"):
        check(result(2.0), baseline=path)


def test_a_missing_baseline_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot read the baseline \(No such file"):
        check(result(2.0), baseline=tmp_path / "none.json")


def test_a_baseline_ratio_of_nothing_cannot_be_compared():
    saved = result(2.0).to_json()
    saved["speedup"][0]["ratio"] = 0
    with pytest.raises(DataError, match="holds no speed-up"):
        check(result(2.0), baseline=saved)


def test_bounds_need_two_models_and_no_bound_needs_nothing():
    alone = BenchResult("a machine", "cpu", 1, 1, (), ())
    check(alone)
    with pytest.raises(DataError, match="one model has no speed-up"):
        check(alone, min_speedup=1.5)
