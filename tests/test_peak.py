import numpy as np
import onnx
import pytest
from onnx_text import RELU, parsed

from onnxprune.bench import bench
from onnxprune.peak import peak_mib


def wide(mib: int) -> onnx.ModelProto:
    """One matrix product whose weight takes `mib` MiB."""
    model = parsed("net (float[N,1024] x) => (float[N,M] y) { y = MatMul(x, w) }")
    weight = np.random.default_rng(0).standard_normal((1024, mib * 256), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def test_the_peak_counts_the_weights_and_not_the_process():
    large, small = (timing.peak_mib for timing in bench([wide(24), RELU], runs=2).models)
    assert large > 24 > small > 0


def test_memory_that_the_measuring_process_held_before_is_not_counted():
    ballast = np.ones(2**26 // 8)  # 64 MiB
    (timing,) = bench([RELU], runs=2).models
    assert timing.peak_mib < 32 < ballast.nbytes / 2**20


def test_inputs_of_any_name_reach_the_measuring_process(tmp_path):
    model = parsed('net (float[2] "a/b:0", float[2] "file") => (float[2] y) { y = Add("a/b:0", "file") }')
    onnx.save(model, tmp_path / "model.onnx")
    inputs = {"file": np.ones(2, np.float32), "a/b:0": np.ones(2, np.float32)}
    assert peak_mib(tmp_path / "model.onnx", inputs, threads=1) >= 0


@pytest.mark.parametrize("broken", ["raise SystemExit(3)", "print('no number')"])
def test_a_peak_that_cannot_be_measured_is_null_and_logged(monkeypatch, caplog, broken):
    monkeypatch.setattr("onnxprune.peak._CHILD", broken)
    (timing,) = bench([RELU], runs=2).models
    assert timing.peak_mib is None
    assert "peak memory could not be measured" in caplog.text
