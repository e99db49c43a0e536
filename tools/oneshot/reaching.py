"""The nearest to a budget that a tool's own knob gives, and how near two files' outputs are."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnxprune import inspect

BY = ("macs", "params")
STEPS = 12
NEAR = 0.003  # of the model's cost: near enough to stop
REACH = 0.03  # further above the budget than this is a failure
BATCH = 64

Arrays = dict[str, np.ndarray]


class PeerError(Exception):
    """A peer failed on a net: one line for the table."""


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Whatever is raised inside comes out as PeerError."""
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        raise PeerError(told(error)) from error


def told(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line}"[:200]


def cost(model: onnx.ModelProto | Path, by: str) -> int:
    """MACs of one sample or parameters, by onnxprune's counter."""
    return int(getattr(inspect(model), by))


def nearest(
    model: Path, prune: Callable[[float], onnx.ModelProto], ratio: float, by: str
) -> tuple[onnx.ModelProto, float]:
    """What `prune` makes nearest to `ratio` of the model's MACs or parameters (`by`), and the share it keeps.

    `prune` takes the share of channels to remove, 0 to 1; bisection on that, 12 steps. Where it raises, it has removed
    too much. PeerError where it always does, or gets no nearer from above than 0.03.
    """
    whole = cost(model, by)
    low, high = 0.0, 1.0
    best: tuple[float, onnx.ModelProto] | None = None
    reason = ""
    for _ in range(STEPS):
        knob = (low + high) / 2
        try:
            pruned = prune(knob)
            kept = cost(pruned, by) / whole
        except Exception as error:
            reason, high = told(error), knob
            continue
        if best is None or abs(kept - ratio) < abs(best[0] - ratio):
            best = kept, pruned
        if abs(kept - ratio) < NEAR:
            break
        low, high = (knob, high) if kept > ratio else (low, knob)
    if best is None:
        raise PeerError(reason)
    if best[0] > ratio + REACH:
        raise PeerError(f"keeps {best[0]:.2f} of the {by} at least{': ' if reason else ''}{reason}")
    return best[1], best[0]


def scores(model: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    """The first output in onnxruntime, classes last: (.., classes)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = [session.run(None, part)[0] for part in parts(inputs, BATCH)]
    return np.moveaxis(np.concatenate(found), class_axis(found[0].ndim), -1)


def parts(inputs: Arrays, size: int) -> list[Arrays]:
    """The inputs in batches of `size`, the last one smaller."""
    count = len(next(iter(inputs.values())))
    return [
        {name: values[start : start + size] for name, values in inputs.items()}
        for start in range(0, count, size)
    ]


def class_axis(rank: int) -> int:
    """Where classes lie: last in sequences (n, t, c), else behind the batch."""
    return 2 if rank == 3 else 1


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the student's classes from the teacher's, in nats; of logits (.., c)."""
    t, s = (x - x.max(-1, keepdims=True) for x in (teacher, student))
    t, s = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (t, s))
    return float((np.exp(t) * (t - s)).sum(-1).mean())


def closest(
    models: list[onnx.ModelProto], teacher: np.ndarray, inputs: Arrays
) -> tuple[onnx.ModelProto, float]:
    """The model whose outputs on `inputs` diverge least from the teacher's, and by how much.

    PeerError where onnxruntime runs none of them.
    """
    found: list[tuple[float, onnx.ModelProto]] = []
    reason = ""
    for model in models:
        try:
            distance = divergence(teacher, scores(model, inputs))
        except Exception as error:
            reason = told(error)
            continue
        if np.isfinite(distance):
            found.append((distance, model))
    if not found:
        raise PeerError(f"onnxruntime does not run what it writes: {reason}")
    distance, model = min(found, key=lambda one: one[0])
    return model, distance
