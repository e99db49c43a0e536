"""A run that is killed outright, wherever it stands, is resumed to the end that it would have had."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_net import small_model

pytestmark = pytest.mark.slow

RUN = [
    "train", "net.onnx", "--data", "bars.npz", "--ratio", "0.4", "--by", "macs", "--multiple-of", "1", "--epochs", "8",
    "--batch-size", "8", "--lr", "0.02", "--augment", "crop,flip", "--device", "cpu",
]  # fmt: skip
KINDS = {
    "fisher": [],
    "tgl": ["--method", "tgl"],
    "scp": ["--method", "scp", "--optimizer", "adamw", "--ema", "0.95"],
    "limits": ["--limit", "params=0.45", "--accumulate", "2", "--schedule", "one-cycle", "--warmup", "0.1"],
}


def command(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "onnxprune", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def finished(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out)


def lines(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_points_it_ends_as_if_it_had_not_been(tmp_path, bars, kind):
    onnx.save(small_model(), tmp_path / "net.onnx")
    np.savez(tmp_path / "bars.npz", **bars)
    words = [*RUN, *KINDS[kind]]
    whole = finished(command(tmp_path, *words, "-o", "whole.onnx", "--json"))
    draw, kills = random.Random(kind), 0
    process = command(tmp_path, *words, "-o", "killed.onnx", "--run-dir", "run", "--json")
    for after in (0, draw.randint(1, 10), draw.randint(11, 25)):  # lines of metrics: one for ten steps
        while process.poll() is None and not (
            (tmp_path / "run" / "config.json").exists() and lines(tmp_path) >= after
        ):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            process = command(tmp_path, "train", "--resume", "run", "--json")
    resumed = finished(process)
    assert kills == 3
    assert resumed["metrics"] == whole["metrics"] and resumed["kept"] == whole["kept"]
    ours, theirs = (
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / name).graph.initializer}
        for name in ("killed.onnx", "whole.onnx")
    )
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_interrupted_it_says_how_to_go_on(tmp_path, bars):
    onnx.save(small_model(), tmp_path / "net.onnx")
    np.savez(tmp_path / "bars.npz", **bars)
    process = command(tmp_path, *RUN, "-o", "out.onnx", "--run-dir", "run")
    while process.poll() is None and lines(tmp_path) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: interrupted after step" in err and "go on with onnxprune train --resume run" in err
    assert "Traceback" not in err and not (tmp_path / "out.onnx").exists()
    assert finished(command(tmp_path, "train", "--resume", "run", "--json"))["output"].endswith("out.onnx")
