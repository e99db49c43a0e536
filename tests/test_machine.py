import onnxruntime
import pytest

from onnxprune.machine import describe_machine, usable_cores


def test_the_machine_is_one_line_with_cores_and_onnxruntime():
    line = describe_machine("cpu")
    assert f"{usable_cores()} cores" in line
    assert line.endswith(f"onnxruntime {onnxruntime.__version__}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("script", "name"),
    [("echo 'NVIDIA H200'; echo second", "NVIDIA H200"), ("exit 9", "unknown GPU"), (None, "unknown GPU")],
)
def test_the_gpu_is_named_where_it_computes(tmp_path, monkeypatch, script, name):
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert name in describe_machine("cuda")
    assert name not in describe_machine("cpu")
