"""What the server counts, in the text that Prometheus reads (exposition format 0.0.4). Standard library only."""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Histogram", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Histogram:
    """How many values lie at or below each of some borders, their number and their sum."""

    def __init__(self, borders: Sequence[float]) -> None:
        self.borders, self.counts, self.total = tuple(borders), [0] * (len(borders) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.borders, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """The histogram as Prometheus writes it."""
        below, found = 0, []
        for border, count in zip([*map(str, self.borders), "+Inf"], self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{border}"}} {below}')
        return [*found, f"{name}_sum {self.total}", f"{name}_count {below}"]


class Metrics:
    """Requests by path and code, their seconds, the sizes of batches, what the answers were."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.answers: Counter[str] = Counter({"known": 0, "unknown": 0, "unreadable": 0})
        self.seconds, self.batches = Histogram(_SECONDS), Histogram(_SIZES)

    def text(self, *, waiting: int, held: int) -> str:
        """All of it; `waiting` pictures are in the queue and requests hold `held` bytes."""
        lines = _head("headstart_requests_total", "counter", "Answered requests by path and status code.")
        lines += [
            f'headstart_requests_total{{path="{path}",code="{code}"}} {count}'
            for (path, code), count in sorted(self.requests.items())
        ]
        lines += _head("headstart_request_seconds", "histogram", "Seconds from a request's headers to its answer.")
        lines += self.seconds.lines("headstart_request_seconds")
        lines += _head("headstart_batch_pictures", "histogram", "Pictures that were answered together.")
        lines += self.batches.lines("headstart_batch_pictures")
        lines += _head("headstart_answers_total", "counter", "Pictures by kind of answer.")
        lines += [f'headstart_answers_total{{kind="{kind}"}} {count}' for kind, count in sorted(self.answers.items())]
        lines += _head("headstart_queue_pictures", "gauge", "Pictures that wait.")
        lines += [f"headstart_queue_pictures {waiting}"]
        lines += _head("headstart_held_bytes", "gauge", "Bytes of requests in memory.")
        lines += [f"headstart_held_bytes {held}"]
        if (memory := _resident()) is not None:
            lines += _head("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
            lines += [f"process_resident_memory_bytes {memory}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def _resident() -> int | None:
    """Bytes of memory that the process has; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
