"""Times of the kernels that onnxruntime makes of models, from its profiler."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from onnxprune.apart import Apart
from onnxprune.errors import ModelError
from onnxprune.garbage import uncollected
from onnxprune.session import declared_inputs, fixed_batch, open_session, random_inputs, reason

ROUNDS = 30
SECONDS = 20.0
"""No new round is begun after them, once there are FEWEST."""
FEWEST = 5
ENDING = "_kernel_time"


class Kernel(NamedTuple):
    """What onnxruntime runs: by the name that it gives, often that of a node or of the tensor that it makes."""

    name: str
    op: str


def kernel_times(
    models: Sequence[Apart], provider: str = "cpu", *, threads: int | None = None, batch: int | None = None
) -> list[Mapping[Kernel, float]]:
    """Milliseconds a run of each kernel of each model on random inputs, the mean of the middle half of the rounds.

    The models take turns. On CUDA they are the times of launches, which say less. Raises ModelError, ProviderError.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            open_session(model, provider=provider, threads=threads, profile=Path(folder) / f"{number}")
            for number, model in enumerate(models)
        ]
        _run(sessions, batch)
        return [_read(Path(session.end_profiling())) for session in sessions]


def _run(sessions: Sequence[onnxruntime.InferenceSession], batch: int | None) -> None:
    inputs = []
    for session in sessions:
        prescribed = fixed_batch(declared_inputs(session))
        inputs.append(random_inputs(session, batch=prescribed or batch or 1, seed=0))
    began = time.perf_counter()
    with uncollected():
        for number in range(ROUNDS):
            if number >= FEWEST and time.perf_counter() - began > SECONDS:
                break
            for session, fed in zip(sessions, inputs, strict=True):
                try:
                    session.run(None, fed)
                except Exception as error:  # onnxruntime's exceptions share no root but this
                    raise ModelError(
                        f"onnxruntime cannot run it on random inputs: {reason(error)}"
                    ) from error


def _read(path: Path) -> dict[Kernel, float]:
    found: dict[Kernel, list[float]] = defaultdict(list)
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith(ENDING):
            name = event["name"].removesuffix(ENDING)
            found[Kernel(name, event["args"]["op_name"])].append(event["dur"] / 1000)
    return {kernel: _middle(np.asarray(times)) for kernel, times in found.items()}


def _middle(times: np.ndarray) -> float:
    """The mean of the middle half: the clock ticks in microseconds, which a median would round to."""
    quarter = len(times) // 4
    return float(np.sort(times)[quarter : len(times) - quarter].mean())
