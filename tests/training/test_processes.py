"""Several processes train one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_net import small_model

HERE = Path(__file__).parent


TRAIN = [
    "-m", "onnxprune", "train", "net.onnx", "--data", "bars.npz", "--val", "bars.npz", "--ratio", "0.4", "--by", "macs",
    "--multiple-of", "1", "--epochs", "4", "--lr", "0.05", "--task", "classification", "--augment", "crop,flip",
    "--device", "cpu", "--json",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bars):
    """A small net and its data."""
    place = tmp_path_factory.mktemp("processes")
    onnx.save(small_model(), place / "net.onnx")
    np.savez(place / "bars.npz", **bars)
    return place


def trained(folder: Path, processes: int, *more: str) -> tuple[dict, dict]:
    """What `train` prints, and the model it writes, from one process or several under torchrun."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python",
                   sys.executable]  # fmt: skip
    done = subprocess.run(
        [*launch, *TRAIN, "-o", f"by{processes}.onnx", "--run-dir", f"run{processes}", *more],
        check=False, capture_output=True, text=True, timeout=600, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    model = onnx.load(folder / f"by{processes}.onnx")
    return json.loads(done.stdout), {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fisher", "tgl", "scp"])
def test_two_processes_end_where_one_does_and_agree_on_every_gate(folder, tmp_path, method):
    for name in ("net.onnx", "bars.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    alone, one = trained(tmp_path, 1, "--batch-size", "32", "--method", method)
    together, two = trained(tmp_path, 2, "--batch-size", "16", "--method", method)
    assert together["reached"] == alone["reached"]
    assert together["metrics"]["after"]["accuracy"] == pytest.approx(alone["metrics"]["after"]["accuracy"], abs=0.005)
    assert together["metrics"]["after"]["loss"] == pytest.approx(alone["metrics"]["after"]["loss"], rel=0.02)
    for name, array in one.items():
        if name.startswith("gate/"):
            assert ((array > 0) == (two[name] > 0)).all(), name
        else:
            scale = np.abs(array).max() or 1.0
            assert np.abs(array - two[name]).max() <= 0.02 * scale, name
    steps = [json.loads(line)["step"] for line in (tmp_path / "run2" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 4 * (480 // 32)


@pytest.mark.slow
def test_what_the_processes_hold_is_the_same(folder, tmp_path):
    """Every rank writes what it has at the end."""
    (tmp_path / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(tmp_path / "worker.py"), str(folder), str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (onnx.load(tmp_path / f"rank{rank}.onnx") for rank in range(2))
    for one, other in zip(first.graph.initializer, second.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other), one.name)
    assert sorted(p.name for p in tmp_path.glob("main*")) == ["main0"]


WORKER = """
import os, sys
from pathlib import Path
import onnx
import onnxprune
from onnxprune.training.processes import leave

folder, out = map(Path, sys.argv[1:])
rank = os.environ["RANK"]
trained = onnxprune.train(
    folder / "net.onnx", folder / "bars.npz", ratio=0.4, by="macs", multiple_of=1, epochs=3, batch_size=16,
    ranking_batches=4, task="classification", lr=0.05, augment="crop,flip,mixup", optimizer="adamw", accumulate=2,
    clip=1.0, ema=0.9, schedule="one-cycle", device="cpu",
)
onnx.save(trained.model, out / f"rank{rank}.onnx")
if trained.main:
    (out / f"main{rank}").touch()
leave()
"""
