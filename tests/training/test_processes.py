"""Several processes train one model."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_net import gated_cnn

HERE = Path(__file__).parent

WORKER = """
import os, sys
import numpy as np, onnx, torch
sys.path.insert(0, sys.argv[1])
from conftest import ChainCosts
from small_net import SIZES
from onnxprune.training import Settings, train
from onnxprune.training.data import from_arrays

torch.set_num_threads(1)
folder = sys.argv[2]
arrays = dict(np.load(folder + "/bars.npz"))
data = from_arrays(arrays, [("x", np.float32, (None, 1, 8, 8))])
costs = ChainCosts(tuple(SIZES), tuple(SIZES.values()), (64, 64, 1), (1, 3))
settings = Settings(ratio=0.4, multiple_of=1, by="macs", epochs=4, batch_size=16, ranking_batches=4, validation=0.25,
                    device="cpu", task="classification", lr=0.05, run_dir=folder + "/run", augment="crop-flip")
seen = []
outcome = train(onnx.load(folder + "/net.onnx"), costs, data, settings, progress=seen.append)
rank = os.environ["RANK"]
onnx.save(outcome.model, folder + f"/trained{rank}.onnx")
np.savez(folder + f"/facts{rank}.npz", reports=len(seen), steps=outcome.history[-1]["step"],
         accuracy=outcome.after["accuracy"], reached=outcome.reached)
"""


@pytest.mark.slow
def test_two_processes_end_with_one_model_at_the_budget(tmp_path, bars):
    onnx.save(gated_cnn(), tmp_path / "net.onnx")
    np.savez(tmp_path / "bars.npz", **bars)
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29611",
    ]
    done = subprocess.run(
        [*launch, str(tmp_path / "worker.py"), str(HERE), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (np.load(tmp_path / f"facts{rank}.npz") for rank in range(2))
    assert first["steps"] == 4 * (360 // 32)
    assert first["reports"] > 0 == second["reports"]
    assert 0.35 < first["reached"] == second["reached"] <= 0.4
    assert first["accuracy"] == second["accuracy"] > 0.8
    models = [onnx.load(tmp_path / f"trained{rank}.onnx") for rank in range(2)]
    for one, other in zip(models[0].graph.initializer, models[1].graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
