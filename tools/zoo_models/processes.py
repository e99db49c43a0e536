"""Each step in a process of its own, and the file that remembers what it found."""

import contextlib
import json
import multiprocessing
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zoo_models.case import Case

Found = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """For one step of one model."""

    seconds: int
    memory_gib: int


QUIET = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip
"""Environment of all children: one thread each, no network, no GPU, no words."""


def limited(command: Sequence[str], limits: Limits) -> Found:
    """The JSON object on the last line that a command prints, or `{"error": its last words}`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limits.seconds, check=False, env={**os.environ, **QUIET},
            preexec_fn=lambda: _limit_memory(limits),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {limits.seconds} s"}
    if done.returncode == 0:
        with contextlib.suppress(IndexError, json.JSONDecodeError):
            return json.loads(done.stdout.strip().splitlines()[-1])
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return {"error": (last or [f"exit code {done.returncode}"])[0][:600]}


def forked(work: Callable[[], Found], limits: Limits) -> Found:
    """What `work` returns in a child of a process that has torch loaded, or the error. `work` has to be picklable."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(work, sender, limits))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limits.seconds):
            return {"error": f"no result within {limits.seconds} s"}
        return receiver.recv()
    except EOFError:
        child.join()
        return {"error": f"exit code {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def warm_up() -> None:
    """Has the children of `forked` start from zoo_models.warm."""
    os.environ.update(QUIET)
    folder = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["zoo_models.warm"])


def _limit_memory(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_gib << 30, limits.memory_gib << 30))


def _report(work: Callable[[], Found], sender: Connection, limits: Limits) -> None:
    _limit_memory(limits)
    with Path(os.devnull).open("w") as nowhere:  # exporters and peers chatter
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sender.send(work())


class Results:
    """A JSON lines file: one line a step of a case, the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.of: dict[tuple[str, str], Found] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the line that a kill cut off
                row = json.loads(line)
                self.of[row["name"], row["step"]] = row

    def get(self, case: Case, step: str) -> Found | None:
        """What is known of a step."""
        return self.of.get((case.name, step))

    def add(self, case: Case, step: str, found: Found) -> Found:
        """Remembers what a step found, on disk at once."""
        row = {"name": case.name, "step": step, **found}
        with self.lock:
            self.of[case.name, step] = row
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return row

    def forget(self, cases: Sequence[Case], step: str) -> None:
        """Drops the results of a step of these cases, or of all steps (`all`) but exports that succeeded."""
        names = {case.name for case in cases}

        def kept(kind: str, row: Found) -> bool:
            return kind != step if step != "all" else kind == "export" and not row.get("error")

        self.of = {
            (name, kind): row for (name, kind), row in self.of.items() if name not in names or kept(kind, row)
        }
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.of.values()))
