"""Whole processes, measured: wall clock, peak memory, the moments of their log lines; and the table of results.

This process stays small (no torch, no numpy): it only starts others, in turn, and looks at them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Outcome", "Row", "factor_row", "keep", "machine", "machine_words", "measure", "read_all", "spread", "table"]

_POLL, _LOOK = 0.02, 0.5  # seconds between looks at the process's end and log, and at its memory
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """A finished process: `started` in seconds since 1970, memory in MB, `lines` of its log with their seconds."""

    seconds: float
    started: float
    peak_mb: float  # of the process and its children, shared pages counted once
    anonymous_mb: float  # of the process alone, without mapped files
    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


def measure(
    command: Sequence[object], *, log: Path, environment: Mapping[str, str] | None = None, watch: Path | None = None
) -> Outcome:
    """Run a command to its end. `watch` is a file of JSON lines that it appends to. RuntimeError when it fails."""
    free = {name: value for name, value in os.environ.items() if name not in _THREADS}
    words = [str(word) for word in command]
    lines: list[tuple[float, dict[str, Any]]] = []
    peak = anonymous = 0.0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        started, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env={**free, "HF_HUB_OFFLINE": "1", **(environment or {})}
        )
        looked = 0.0
        while process.poll() is None:
            now = time.perf_counter()
            if now - looked > _LOOK:
                looked = now
                shared, own = _memory(process.pid)
                peak, anonymous = max(peak, shared), max(anonymous, own)
            _follow(watch, lines, now - clock)
            time.sleep(_POLL)
        seconds = time.perf_counter() - clock
    _follow(watch, lines, seconds)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}\nended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return Outcome(seconds, started, peak, anonymous, lines)


def _memory(pid: int) -> tuple[float, float]:
    """MB of a process with its children (proportional shares), and the anonymous MB of the process alone."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        status = Path(f"/proc/{pid}/status").read_text()
        own = next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)
    except (psutil.Error, OSError):
        return 0.0, 0.0
    total = 0.0
    for one in family:
        try:
            total += one.memory_full_info().pss / 2**20
        except (psutil.Error, AttributeError):
            continue
    return total, own


def _follow(path: Path | None, lines: list[tuple[float, dict[str, Any]]], now: float) -> None:
    """Take in the whole lines that have been added since the last look."""
    if path is None or not path.is_file():
        return
    text = path.read_text()
    for line in text[: text.rfind("\n") + 1].splitlines()[len(lines) :]:
        lines.append((now, json.loads(line)))


def read_all(folder: Path) -> None:
    """Read every file once, so that no side finds the disk colder than the other."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def machine() -> dict[str, Any]:
    """Cores, processor, memory and versions."""
    versions = {}
    names = ("torch", "torchvision", "timm", "scikit-learn", "onnxruntime", "openvino", "pillow", "numpy")
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    flags = info.read_text().partition("flags")[2].partition("\n")[0].split() if info.is_file() else []
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "gpu": _gpu(),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "instructions": [name for name in wanted if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "threads": "as each program chooses; OMP_NUM_THREADS is not set",
        **versions,
    }


def _gpu() -> str:
    """The graphics cards by nvidia-smi; "" without one."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return ", ".join(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[:-1])
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine_words(facts: Mapping[str, Any]) -> str:
    """What `machine` found, in one line."""
    names = ("torch", "timm", "scikit-learn", "onnxruntime", "openvino")
    versions = ", ".join(f"{name} {facts[name]}" for name in names)
    gpu = f"{facts['gpu']}, " if facts.get("gpu") else ""
    return (
        f"{gpu}{facts['cores']} cores of {facts['processor']} ({', '.join(facts['instructions'])}), "
        f"{facts['memory_gb']} GB, load before {facts['load_before'][0]}, Python {facts['python']}, {versions}; "
        f"threads {facts['threads']}"
    )


def keep(
    found: Mapping[str, Any], text: str, folder: Path, *, name: str, page: Path | None, marks: tuple[str, str]
) -> None:
    """Write NAME.json and NAME.md into a folder, and put the text between the marks of `page`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    if page is not None and page.is_file():
        before, begin, rest = page.read_text().partition(marks[0])
        _, end, after = rest.partition(marks[1])
        if begin and end:
            page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


# --- the table --------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One line of the table: figures of both sides, what came of them, and what was wanted."""

    work: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float]
    got: str = ""
    wanted: str = ""
    reached: bool | None = None
    accuracy: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    memory: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    limit: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row for the JSON file."""
        return asdict(self)


def factor_row(
    work: str,
    against: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    wanted: tuple[float, float] | None = None,
    **more: Any,
) -> Row:
    """A row whose outcome is how many times as fast ours is, by the medians; units ending in "/s" are better higher."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    times = mine / other if unit.endswith("/s") else other / mine
    return Row(
        work, against, unit, list(ours), list(theirs), got=f"{times:.1f}x",
        wanted=f"{wanted[0]:g}x ({wanted[1]:g}x)" if wanted else "", reached=times >= wanted[0] if wanted else None,
        **more,
    )  # fmt: skip


def spread(values: Sequence[float], unit: str = "") -> str:
    """`min ← median → max`, or the one value; three digits that count."""
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    end = f" {unit}" if unit else ""
    if len(values) == 1:
        return f"{_digits(middle)}{end}"
    return f"{_digits(low)} ← {_digits(middle)} → {_digits(high)}{end}"


def _digits(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of rows as `Row.as_dict` gives them."""
    lines = [
        "| work | headstart | the other | came to | at least (aim) | accuracy | peak MB | limit, and our share of it |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        wanted = row["wanted"]
        if row["reached"] is not None:
            wanted += ", reached" if row["reached"] else ", **missed**"
        cells = [
            row["work"],
            spread(row["ours"], row["unit"]),
            f"{row['against']}: {spread(row['theirs'], row['unit'])}" if row["theirs"] else row["against"],
            row["got"],
            wanted,
            _both(row["accuracy"], lambda values: f"{statistics.median(values):.3f}"),
            _both(row["memory"], lambda values: f"{max(values):,.0f}"),
            row["limit"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _both(pair: Sequence[Sequence[float]], shown: Any) -> str:
    sides = [shown(values) if values else "-" for values in pair]
    return "" if sides == ["-", "-"] else " / ".join(sides)
