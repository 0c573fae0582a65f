"""A5: mutated pictures are decoded or refused in one line; none crashes, hangs or fills the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from figures import record

MUTANTS = Path(__file__).parent / "_mutants.py"
CHILD = 500
"""How many a child process loads: what one of them spoils, the next child does not have."""


def loaded(first: int, count: int) -> dict[str, Any]:
    """What came of some mutants in one child; fails with the number of the one that ended it."""
    done = subprocess.run(
        [sys.executable, str(MUTANTS), str(first), str(count)], capture_output=True, text=True, timeout=600
    )
    last = [line for line in done.stderr.splitlines() if line.isdecimal()][-1:]
    assert done.returncode == 0, f"mutant {last} ended the child with {done.returncode}: {done.stderr[-1500:]}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def judged(total: int, *, child: int = CHILD) -> dict[str, Any]:
    """All mutants below `total`, in children."""
    parts = [loaded(first, min(child, total - first)) for first in range(0, total, child)]
    slowest = max(parts, key=lambda part: part["seconds"])
    return {
        "files": sum(part["files"] for part in parts),
        "used": sum(part["used"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "crashes": 0,
        "hangs": 0,
        "slowest_seconds": round(slowest["seconds"], 3),
        "slowest": slowest["slowest"],
        "peak_mb": round(max(part["peak_mb"] for part in parts)),
    }


def check(found: dict[str, Any], total: int) -> None:
    assert found["files"] == total == found["used"] + found["refused"]
    assert found["used"] > total / 20, "mutants that are all refused test the first check alone"
    assert found["refused"] > total / 5
    assert found["peak_mb"] < 1024


def test_a_few_hundred_mutants_neither_crash_nor_hang_nor_fill_the_memory() -> None:
    """A5, the short way."""
    check(judged(300), 300)


@pytest.mark.long
def test_ten_thousand_mutants_neither_crash_nor_hang_nor_fill_the_memory() -> None:
    """A5."""
    found = judged(10_000)
    record("mutated pictures", **found)
    check(found, 10_000)


def test_the_child_is_caught_where_a_picture_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test itself: a loader that never ends and one that crashes are seen."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'mutants' in ' '.join(sys.orig_argv):\n"
        "    from headstart.data import decode\n"
        "    how = os.environ['HOW']\n"
        "    def load(*_, **__):\n"
        "        if how == 'crash':\n"
        "            os.abort()\n"
        "        while True: pass\n"
        "    decode.load = load\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2] / 'src'}")
    monkeypatch.setenv("MUTANT_SECONDS", "0.3")
    for how, code in (("crash", -6), ("hang", -27)):
        monkeypatch.setenv("HOW", how)
        with pytest.raises(AssertionError, match=rf"mutant \['7'\] ended the child with {code}"):
            loaded(7, 2)
