"""How many threads this process may use. Standard library only."""

from __future__ import annotations

import os

__all__ = ["cores", "default_workers"]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def default_workers() -> int:
    """Decoding threads for this machine: one a core, eight at most."""
    return max(1, min(8, cores()))
