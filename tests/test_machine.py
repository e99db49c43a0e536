import numpy as np
import onnxruntime
import pytest

from onnxprune.machine import describe_machine, release_memory, usable_cores


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


def test_releasing_memory_changes_nothing_that_is_in_use():
    kept = np.arange(1 << 20)
    release_memory()
    assert (kept == np.arange(1 << 20)).all()


def test_where_the_c_library_cannot_release_memory_nothing_happens(monkeypatch):
    monkeypatch.setattr("onnxprune.machine.ctypes.CDLL", lambda _: object())
    release_memory()
