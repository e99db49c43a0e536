"""Each step in a process of its own, and the file that remembers what it found."""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_models.case import Case

Found = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """For one step of one model."""

    seconds: int
    memory_gib: int


def in_own_process(tool: Path, case: Case, step: str, args: argparse.Namespace, limits: Limits) -> Found:
    """What the step found, or the error; never an exception."""
    command = [
        sys.executable, str(tool), "--cache", str(args.cache), "--ratio", str(args.ratio), "--one", step, case.name
    ]  # fmt: skip
    return limited(command, limits)


def limited(command: Sequence[str], limits: Limits) -> Found:
    """The JSON object on the last line that a command prints, or `{"error": its last words}`."""
    quiet = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_gib << 30, limits.memory_gib << 30))

    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limits.seconds, preexec_fn=limit, check=False,
            env={**os.environ, **quiet},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {limits.seconds} s"}
    if done.returncode == 0:
        with contextlib.suppress(IndexError, json.JSONDecodeError):
            return json.loads(done.stdout.strip().splitlines()[-1])
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    return {"error": (last or [f"exit code {done.returncode}"])[0][:600]}


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

    def forget(self, cases: Sequence[Case]) -> None:
        """Drops all results of these cases but those of exports that succeeded."""
        names = {case.name for case in cases}
        self.of = {
            (name, step): row
            for (name, step), row in self.of.items()
            if name not in names or (step == "export" and not row.get("error"))
        }
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.of.values()))
