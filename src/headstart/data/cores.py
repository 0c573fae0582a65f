"""The processor, and how many threads this process may use. Standard library only."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cores", "default_workers", "processor"]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def default_workers() -> int:
    """Decoding threads for this machine: one a core, eight at most."""
    return max(1, min(8, cores()))


def processor() -> str:
    """The processor's name, or its kind where the system does not tell the name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
