"""What `load` takes at most, measured in a process of its own."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from small import model

PEAK = """
import sys
from pathlib import Path
from onnxprune.to_torch import load
from onnxprune.to_torch.registry import known

def held(what):
    return int(Path("/proc/self/status").read_text().split(what)[1].split()[0]) * 1024

known()  # the converters, and with them all of PyTorch, are not the model's
before = held("VmRSS:")
module = load(sys.argv[1])
print((held("VmHWM:") - before) / sum(p.nbytes for p in module.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory from /proc")
@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "external data"])
def test_load_takes_little_more_than_the_weights(apart: bool, tmp_path: Path) -> None:
    sizes = 4096, 8192, 2048  # 192 MiB
    values = {
        f"w{i}": np.full((rows, columns), i + 1, np.float32)
        for i, (rows, columns) in enumerate(pairwise(sizes))
    }
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["y"])]
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, {"x": ["N", 4096]}, ["y"], values), path, save_as_external_data=apart, location="weights")
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 2.2
