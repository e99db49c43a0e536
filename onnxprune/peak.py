"""The memory a model needs in onnxruntime, measured in a process of its own."""

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxprune.session import open_session

LOG = logging.getLogger(__name__)
_TIMEOUT = 600  # seconds
_RUNS = 2  # the first run plans the memory, the second uses the plan
_CHILD = "import sys; from onnxprune.peak import report; report(*sys.argv[1:])"


def peak_mib(model: Path, inputs: Mapping[str, np.ndarray], *, threads: int | None) -> float | None:
    """MiB of resident memory that loading and running the model on the CPU adds to a process, at its highest.

    What Python, numpy, onnxruntime and the inputs need is not counted. None, with a warning in the log, where
    that cannot be measured.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "inputs.npz"
        np.savez(arrays, *inputs.values())  # names may hold characters that no file name takes
        command = [sys.executable, "-c", _CHILD, str(model), str(arrays), json.dumps([threads, list(inputs)])]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=True, env=environment
            )
            mib = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            LOG.warning("%s: peak memory could not be measured (%s)", model, error)
            return None
    return float(mib) if mib is not None else None


def report(model: str, arrays: str, settings: str) -> None:
    """Run in the process of its own: print, as JSON, the MiB that the model added."""
    threads, names = json.loads(settings)
    with np.load(arrays, allow_pickle=False) as saved:
        inputs = {name: saved[f"arr_{position}"] for position, name in enumerate(names)}
    before = _highest_mib(anew=True)
    session = open_session(model, threads=threads)
    for _ in range(_RUNS):
        session.run(None, inputs)
    after = _highest_mib()
    sys.stdout.write(json.dumps(None if before is None or after is None else after - before))


def _highest_mib(anew: bool = False) -> float | None:
    """The largest resident set of this process, in MiB; `anew` forgets what was before now."""
    status = Path("/proc/self/status")  # not getrusage: a child's ru_maxrss starts at its parent's on Linux
    if status.exists():
        if anew:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return float(lines["VmHWM"].split()[0]) / 1024
    if platform.system() == "Darwin":
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20
    return None
