"""C3, D3: a disk that fails, or a kill, at any call that changes it costs no good file and no bit of the result."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _faults import Done, Fault, Forge, chosen
from figures import record

from headstart import files
from headstart.data._shard import Shard
from toydata import folder_hash, write_shapes

FIT = ("fit", "data", "--out", "run", "--source", "toy", "--engine", "torch", "--quiet")
FROZEN = (*FIT, "--strategy", "frozen", "--head", "ridge", "--views", "0")
FULL = (*FIT, "--strategy", "full", "--epochs", "2", "--batch-size", "16", "--workers", "0")
CUT = (*FIT, "--strategy", "partial", "--train-last", "1", "--epochs", "1", "--views", "1", "--workers", "0")
PRUNED = 8_000  # bytes
PRUNE = ("cache", "--prune", "--to", "8kB", "--json")
SUBSET = ("subset", "data", "--out", "run", "--per-class", "2", "--copy", "--json")


@dataclass(frozen=True)
class Case:
    """A command line, and what stands on the disk before it."""

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()  # command lines whose runs are thrown away: they fill the store
    killed_at: str = ""  # the same command was killed at this call, and `words` go on
    times: int = 0  # ... for the n-th time
    exact: bool = True  # a run that goes on without the store gives the same bits


CASES = {
    "frozen": Case(FROZEN),
    "full": Case(FULL),
    "cut": Case(CUT, exact=False),  # what is kept of augmented views is rounded to halves
    "extend": Case((*FROZEN, "--views", "1"), before=(FROZEN,)),
    "resume": Case(("resume", "run", "--quiet"), before=(FULL,), killed_at="rename run/checkpoints/", times=3),
    "prune": Case(PRUNE, before=(FROZEN, (*FROZEN, "--views", "1")), exact=False),  # what stays is told
    "subset": Case(SUBSET),
}


class Place:
    """A folder that is put back before every fault."""

    def __init__(self, forge: Forge, case: Case, root: Path) -> None:
        self.forge, self.case, self.root, self.kept = forge, case, root / "work", root / "kept"
        self.root.mkdir()
        self.data = write_shapes(self.root / "data", per_class=6)
        self.pictures = folder_hash(self.data)
        for words in case.before:
            self._prepare(words)
        shutil.copytree(self.root, self.kept)
        self.old = self._whole()
        done = self.run(*case.words)
        assert done.code == 0, done.err
        self.calls = done.calls
        self.wanted = self._result(done)

    def _prepare(self, words: tuple[str, ...]) -> None:
        fault = None
        if self.case.killed_at:
            calls = [call.replace(f"{self.root}/", "") for call in self.run(*words).calls]
            shutil.rmtree(self.root / "run")
            shutil.rmtree(self.root / "home")
            at = [n for n, call in enumerate(calls) if call.startswith(self.case.killed_at)]
            fault = Fault(at[self.case.times - 1], "killed")
        done = self.run(*words, fault=fault)
        assert done.code == (0 if fault is None else -9), done.err
        if fault is None:
            shutil.rmtree(self.root / "run")

    def run(self, *words: str, fault: Fault | None = None) -> Done:
        home = self.root / "home"
        environment = {"HEADSTART_HOME": str(home)}
        return self.forge.run(
            *words, place=self.root, watched=(self.root / "run", home), fault=fault, env=environment
        )  # fmt: skip

    def _result(self, done: Done) -> dict[str, Any]:
        """What must be the same, bit for bit."""
        run = self.root / "run"
        if self.case.words[0] == "cache":
            self._whole()  # which of them stay depends on which could be removed first
            return {"fits": sum(p.stat().st_size for p in self.root.rglob("home/**/*") if p.is_file()) <= PRUNED}
        if self.case.words[0] == "subset":
            return {"files": folder_hash(run)}
        told = json.loads((run / "run.json").read_text())
        stable = {name: value for name, value in told.items() if name not in ("seconds", "work")}
        stable["race"] = [{k: v for k, v in row.items() if k != "seconds"} for row in told["race"]]
        seen = {name: files.hash_file(run / name) for name in ("predictions.csv", "model/headstart.json")}
        return {"run": stable, **seen}

    def _whole(self) -> dict[str, int]:
        """Every checkpoint and shard that stands under its final name, checked; the checkpoints by their number."""
        found: dict[str, int] = {}
        for path in self.root.glob("home/**/*.safetensors"):
            if path.name[0] != "." and (path.parent / "key.json").exists():  # else nobody will read it
                key = json.loads((path.parent / "key.json").read_text())["key"]
                shard = Shard(path, key["dtype"])
                assert shard.good(files_range(len(shard))).all(), f"{path} is damaged"
                found[path.relative_to(self.root).as_posix()] = len(shard)
        for path in self.root.glob("run/checkpoints/*/state.json"):
            told = json.loads(path.read_text())
            if files.hash_file(path.with_name("state.safetensors")) == told["sha256"]:
                found["checkpoint"] = max(found.get("checkpoint", 0), told["number"])
        return found

    def suffer(self, fault: Fault) -> str:
        """One fault and what follows; the outcome in a word. Fails where a law is broken."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root)
        done = self.run(*self.case.words, fault=fault)
        outcome = self._told(done, fault)
        for name, size in self.old.items():
            if name == "checkpoint" or self.case.words[0] != "cache":
                assert self._whole().get(name, 0) >= size, f"{name} is lost"
        self._run_folder_is_whole()
        if outcome == "went on" and self.case.exact:
            assert self._result(done) == self.wanted
        else:
            if outcome == "went on":
                shutil.rmtree(self.root / "run", ignore_errors=True)
            self._mend()
        assert folder_hash(self.data) == self.pictures
        left = [p for p in self.root.rglob("*.tmp") if "data" not in p.parts]
        assert left == [] or outcome == "went on", left
        return outcome

    def _told(self, done: Done, fault: Fault) -> str:
        assert "Traceback" not in done.err + done.out, done.err
        if fault.kind in ("kill", "killed"):
            assert done.code == -9, (done.code, done.err)
            return "killed"
        assert done.code in (0, 2), (done.code, done.err)
        if done.code == 2:
            line = done.err.strip()
            assert line.startswith("error: ")
            assert len(line.splitlines()) == 1
            assert str(self.root) in line or "[run" in line or "home" in line, line
        return "stopped" if done.code else "went on"

    def _run_folder_is_whole(self) -> None:
        """Where run.json stands, so does the whole model; where headstart.json does, its files are those it names."""
        run = self.root / "run"
        if (run / "run.json").exists():
            json.loads((run / "run.json").read_text())
            assert (run / "model" / "headstart.json").exists()
        if (run / "model" / "headstart.json").exists():
            told = json.loads((run / "model" / "headstart.json").read_text())
            for name, sha256 in told["files"].items():
                file = run / "model" / name  # whoever loads the model finishes what has not its name yet
                assert (file.is_file() and files.hash_file(file) == sha256) or files.finish(file, sha256), name

    def _mend(self) -> None:
        """The disk is well again: go on, to the same bits, and nothing half-written stays."""
        old = time.time() - 90_000
        for path in self.root.glob("home/**/*.tmp"):  # as if the next run came a day later
            os.utime(path, (old, old))
        words = self.case.words
        if words[0] in ("fit", "resume") and (self.root / "run" / "settings.json").exists():
            words = ("resume", "run", "--quiet")
        done = self.run(*words)
        if words[0] == "subset" and done.code == 2:  # half a data set of a killed process is not taken for a whole one
            assert "not an empty folder" in done.err
            shutil.rmtree(self.root / "run")
            done = self.run(*words)
        assert done.code == 0, done.err
        assert self._result(done) == self.wanted


def files_range(count: int) -> Any:
    import numpy as np

    return np.arange(count)


def suffered(forge: Forge, folder: Path, shares: Mapping[str, int], *, seed: int) -> dict[str, Any]:
    """Faults for each case; how they ended."""
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    calls = {}
    for name, count in shares.items():
        (folder / name).mkdir()
        place = Place(forge, CASES[name], folder / name)
        calls[name] = len(place.calls)
        faults = chosen(len(place.calls), count, seed=seed)
        assert len(faults) == count, f"{name} makes {len(place.calls)} calls"
        for fault in faults:
            try:
                outcomes[place.suffer(fault)] += 1
            except (AssertionError, OSError, ValueError) as error:
                call = place.calls[fault.call].replace(str(folder), "")
                broken.append(f"{name}, {fault.kind} at call {fault.call} ({call}): {str(error)[:600]}")
        shutil.rmtree(folder / name)
    assert broken == [], f"{len(broken)} faults:\n" + "\n".join(broken[:20])
    return {"calls": calls, "faults": sum(shares.values()), **outcomes}


def test_c3_d3_twenty_faults_lose_no_file_and_no_bit(forge: Forge, tmp_path: Path) -> None:
    suffered(forge, tmp_path, {"frozen": 8, "full": 3, "resume": 5, "prune": 2, "subset": 2}, seed=0)


@pytest.mark.long
def test_c3_d3_a_thousand_faults_lose_no_file_and_no_bit(forge: Forge, tmp_path: Path) -> None:
    shares = {"frozen": 250, "full": 200, "cut": 150, "extend": 100, "resume": 210, "prune": 40, "subset": 50}
    started = time.monotonic()
    figures = suffered(forge, tmp_path, shares, seed=1)
    record("C3 and D3: injected faults", **figures, lost=0, seconds=round(time.monotonic() - started))
