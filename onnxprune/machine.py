"""The machine: what a measurement was made on, and its memory."""

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import onnxruntime


def describe_machine(provider: str) -> str:
    """One line: processor, usable cores, the GPU where one computes, system and onnxruntime's version."""
    parts = [_processor(), f"{usable_cores()} cores"]
    if provider == "cuda":
        parts.append(_gpu())
    parts += [f"{platform.system()} {platform.machine()}", f"onnxruntime {onnxruntime.__version__}"]
    return ", ".join(parts)


def usable_cores() -> int:
    """Logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def release_memory() -> None:
    """Hands memory that nothing uses any more back to the system, where the C library keeps it to itself otherwise
    (glibc: some 150 MiB after a session of ResNet-50).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or "unknown processor"
    return platform.processor() or "unknown processor"


def _gpu() -> str:
    return _first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "unknown GPU"


def _first_line(command: list[str]) -> str:
    """The first line the command prints; empty where it is missing or fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()
