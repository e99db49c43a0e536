"""Latency of models in onnxruntime, side by side.

    result = bench(["model.onnx", "model.slim.onnx"], threads=1)
    print(result.table())

The models take turns, in a new order each round, so that whatever else the machine does meets all of them
alike. What is compared are the medians, with an interval from resampled rounds.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxprune.errors import DataError, ModelError
from onnxprune.garbage import uncollected
from onnxprune.machine import describe_machine
from onnxprune.peak import peak_mib
from onnxprune.session import (
    Input,
    declared_inputs,
    fixed_batch,
    open_session,
    random_inputs,
    reason,
    write,
)

DEFAULT_SECONDS = 5.0
_LEAST_ROUNDS = 20  # that a limit in seconds leaves; fewer give no interval worth the name
_MOST_ROUNDS = 10_000
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Timing:
    """What one model took per run, in milliseconds, and the memory it added to the process, in MiB."""

    path: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    peak_mib: float | None


@dataclass(frozen=True)
class Speedup:
    """How many times faster `of` is than `over`: ratio of the medians, with its 95 % interval."""

    of: str
    over: str
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchResult:
    """One measurement; `threads` is None where onnxruntime chose, `speedup` has the later models in order."""

    machine: str
    provider: str
    threads: int | None
    batch: int
    models: tuple[Timing, ...]
    speedup: tuple[Speedup, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `onnxprune bench --json` prints and that targets.check takes as a baseline."""
        fields = asdict(self)
        return fields | {"models": list(fields["models"]), "speedup": list(fields["speedup"])}

    def table(self) -> str:
        """The measurement as text, one line a model."""
        rows: list[tuple[str, ...]] = [
            ("model", "median", "p10", "p90", "p99", "runs", "peak", "speed-up (95 % interval)")
        ]
        for timing, ratio in zip(self.models, (None, *self.speedup), strict=True):
            times = (timing.median_ms, timing.p10_ms, timing.p90_ms, timing.p99_ms)
            memory = "-" if timing.peak_mib is None else f"{timing.peak_mib:.1f} MiB"
            gain = f"{ratio.ratio:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "1"
            rows.append(
                (timing.path, *(f"{value:.3f} ms" for value in times), str(timing.runs), memory, gain)
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        threads = "onnxruntime's own number of threads" if self.threads is None else f"threads {self.threads}"
        return "\n".join([f"{self.machine}; {self.provider}, {threads}, batch {self.batch}", *lines])


def bench(
    models: Sequence[str | Path | onnx.ModelProto],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    batch: int | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    warmup: int = 5,
    seed: int = 0,
    dynamic: Mapping[str, int] | None = None,
    memory: bool = True,
    progress: Callable[[float], None] | None = None,
) -> BenchResult:
    """Time `models` on random inputs that lie where the provider computes.

    `batch` samples a run (None: what static shapes prescribe, else 1), `dynamic` sizes for other open axes
    (see session.random_inputs). Measures `runs` rounds, or as many as fit into `seconds` (default 5; at least
    20 rounds), whichever ends first, after `warmup` rounds that do not count. `memory` also measures each
    model's peak, in a process of its own, for the CPU. `progress` is told the share done, 0..1.

    Raises ModelError, ProviderError, DataError (arguments that do not fit the models).
    """
    _check_arguments(models, batch, runs, seconds, warmup)
    names = [
        str(model) if isinstance(model, str | Path) else f"models[{i}]" for i, model in enumerate(models)
    ]
    with _as_files(models) as files:
        sessions = [open_session(file, provider=provider, threads=threads) for file in files]
        samples = _common_batch([declared_inputs(session) for session in sessions], names, batch)
        inputs = [random_inputs(session, batch=samples, seed=seed, dynamic=dynamic) for session in sessions]
        calls = [_bound(*each, provider) for each in zip(sessions, inputs, strict=True)]
        for name, fed, call in zip(names, inputs, calls, strict=True):
            _warm_up(call, warmup, name, fed)
        times = _interleaved(calls, runs, seconds, seed, progress)
        measured = memory and provider == "cpu"
        peaks = [
            peak_mib(file, fed, threads=threads) if measured else None
            for file, fed in zip(files, inputs, strict=True)
        ]
    ratios = [
        Speedup(name, names[0], *ratio_of_medians(times[0], later))
        for name, later in zip(names[1:], times[1:], strict=True)
    ]
    return BenchResult(
        describe_machine(provider),
        provider,
        threads,
        samples,
        tuple(map(_timing, names, times, peaks)),
        tuple(ratios),
    )


def ratio_of_medians(first: np.ndarray, later: np.ndarray) -> tuple[float, float, float]:
    """Median of `first` over median of `later`, times (n,) of the same n rounds, and its 95 % interval.

    The interval comes from a circular block bootstrap of the rounds (Politis and Romano 1992): pairs stay
    together, and so do sqrt(n) rounds in a row, since disturbances last longer than a run.
    """
    rounds = len(first)
    block = max(1, int(np.sqrt(rounds)))
    rng = np.random.default_rng(0)
    ratios = np.empty(_RESAMPLES)
    for sample in range(_RESAMPLES):
        starts = rng.integers(0, rounds, -(-rounds // block))
        chosen = ((starts[:, None] + np.arange(block)) % rounds).ravel()[:rounds]
        ratios[sample] = np.median(first[chosen]) / np.median(later[chosen])
    low, high = np.percentile(ratios, [2.5, 97.5])
    ratio = float(np.median(first) / np.median(later))
    return ratio, min(float(low), ratio), max(float(high), ratio)


def _check_arguments(
    models: Sequence[Any], batch: int | None, runs: int | None, seconds: float | None, warmup: int
) -> None:
    if not models:
        raise DataError("bench got no model: give at least one")
    for name, value, least in (("batch", batch, 1), ("runs", runs, 1), ("warmup", warmup, 0)):
        if value is not None and value < least:
            raise DataError(f"bench with {name} {value}: give {least} or more")
    if seconds is not None and not seconds > 0:
        raise DataError(f"bench for {seconds} seconds: give more than 0")


@contextlib.contextmanager
def _as_files(models: Sequence[str | Path | onnx.ModelProto]) -> Iterator[list[Path]]:
    """Paths of all models; those in memory are written to a folder that goes afterwards."""
    with contextlib.ExitStack() as stack:
        files = []
        for model in models:
            if isinstance(model, onnx.ModelProto):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                files.append(write(model, Path(folder) / "model.onnx"))
            else:
                files.append(Path(model))
        yield files


def _common_batch(inputs: Sequence[Sequence[Input]], names: Sequence[str], batch: int | None) -> int:
    """The samples a run that all models take, the one asked for if any."""
    samples = batch
    for declared, name in zip(inputs, names, strict=True):
        fixed = fixed_batch(declared)
        if fixed is None:
            continue
        if samples is not None and fixed != samples:
            wanted = f"{batch} were asked for" if batch is not None else f"another model takes {samples}"
            raise DataError(
                f"{name}: takes batches of {fixed} only and {wanted}; export it with a dynamic batch axis"
            )
        samples = fixed
    return 1 if samples is None else samples


@dataclass(frozen=True)
class _Call:
    """One run with inputs and outputs on the provider's device, so that no copy is timed."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    values: Mapping[str, onnxruntime.OrtValue]  # kept alive: on the CPU the binding only points at the arrays
    queued: bool  # a GPU has not finished when the call returns

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)
        if self.queued:
            self.binding.synchronize_outputs()


def _bound(
    session: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray], provider: str
) -> Callable[[], None]:
    binding = session.io_binding()
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array, provider, 0) for name, array in inputs.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, provider)
    return _Call(session, binding, values, provider != "cpu")


def _warm_up(call: Callable[[], None], rounds: int, name: str, inputs: Mapping[str, np.ndarray]) -> None:
    try:
        for _ in range(max(1, rounds)):
            call()
    except Exception as error:  # onnxruntime's exceptions share no root but this
        fed = ", ".join(f"{key} {list(array.shape)}" for key, array in inputs.items())
        raise ModelError(
            f"{name}: onnxruntime cannot run it on {fed}: {reason(error)}; "
            f"where an open axis needs another size, give it ({{'axis': size}}, --dim AXIS=SIZE)"
        ) from error


def _interleaved(
    calls: Sequence[Callable[[], None]],
    runs: int | None,
    seconds: float | None,
    seed: int,
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """Milliseconds (models, rounds): each round runs every model once, in a random order."""
    if seconds is None:
        seconds = DEFAULT_SECONDS if runs is None else float("inf")
    most, least = runs or _MOST_ROUNDS, min(runs or _LEAST_ROUNDS, _LEAST_ROUNDS)
    rng = np.random.default_rng(seed)
    rounds: list[list[float]] = []
    with uncollected():
        begin = time.perf_counter()
        while len(rounds) < most and (len(rounds) < least or time.perf_counter() - begin < seconds):
            took = [0.0] * len(calls)
            for position in rng.permutation(len(calls)):
                start = time.perf_counter_ns()
                calls[position]()
                took[position] = (time.perf_counter_ns() - start) / 1e6
            rounds.append(took)
            if progress is not None:
                progress(min(1.0, max(len(rounds) / most, (time.perf_counter() - begin) / seconds)))
    return np.array(rounds).T


def _timing(path: str, times: np.ndarray, peak: float | None) -> Timing:
    p10, median, p90, p99 = (float(value) for value in np.percentile(times, [10, 50, 90, 99]))
    return Timing(path, median, p10, p90, p99, len(times), peak)
