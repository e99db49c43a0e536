"""Metrics are of all samples, however these are divided into batches and processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from divided import DIVIDED, batches_of, model_of, task_of

from onnxprune.errors import TrainingError
from onnxprune.training.evaluate import evaluate

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("name", DIVIDED)
def test_metrics_do_not_depend_on_the_batch_size(name, size, accelerator):
    whole = evaluate(accelerator, *model_of(name), task_of(name), batches_of(name, range(22), 22))
    found = evaluate(accelerator, *model_of(name), task_of(name), batches_of(name, range(22), size))
    assert found == pytest.approx(whole, rel=1e-6, abs=1e-9)
    assert list(found) == list(whole)


def test_nothing_held_out_is_refused(accelerator):
    with pytest.raises(TrainingError, match="no held-out samples"):
        evaluate(accelerator, *model_of("classification"), task_of("classification"), [])


WORKER = """
import json, os, sys
import torch
sys.path.insert(0, sys.argv[1])
from accelerate import Accelerator
from divided import DIVIDED, batches_of, model_of, task_of
from onnxprune.training.evaluate import evaluate
from onnxprune.training.processes import leave

torch.set_num_threads(1)
accelerator, rank = Accelerator(cpu=True), int(os.environ["RANK"])
found = {}
for name in DIVIDED:
    shares = (range(22), []) if name == "regression" else (range(17), range(17, 22))
    batches = batches_of(name, shares[rank], 4)
    found[name] = evaluate(accelerator, *model_of(name), task_of(name), batches)
with open(sys.argv[2] + f"/metrics{rank}.json", "w") as file:
    json.dump(found, file)
leave()
"""


@pytest.mark.slow
def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path, accelerator):
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29613",
    ]
    done = subprocess.run(
        [*launch, str(tmp_path / "worker.py"), str(HERE), str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"metrics{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for name in DIVIDED:
        whole = evaluate(accelerator, *model_of(name), task_of(name), batches_of(name, range(22), 22))
        assert first[name] == pytest.approx(whole, rel=1e-6, abs=1e-9)
