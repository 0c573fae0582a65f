"""The workplace of the cases: pictures, sources, our side, the peers and the limits, each as a process."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Outcome, measure, read_all

HERE = Path(__file__).resolve().parent
TOY = HERE.parent / "src" / "headstart" / "sources" / "toy"
DRAWN = 80  # pictures of a dry run


@dataclass(frozen=True)
class Side:
    """One finished process of either side, and the JSON that it left."""

    outcome: Outcome
    record: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Seconds of the whole process."""
        return self.outcome.seconds

    @property
    def accuracy(self) -> float:
        """Ours: on the sealed test pictures; a peer's: there too, or its best epoch's where there is no third split."""
        if "scores" in self.record:
            return float(self.record["scores"]["test"]["accuracy"])
        return float(self.record.get("test_accuracy", self.record["accuracy"]))


class Lab:
    """Starts processes in a folder of its own inside `scratch`, where pictures are kept for the next time.

    A dry lab takes the toy network and a few drawn pictures for everything.
    """

    def __init__(self, scratch: Path, *, shared: Path, peer_python: Path, dry: bool) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.kept = scratch / "pictures"
        self.scratch = Path(tempfile.mkdtemp(prefix="lab-", dir=scratch))
        self.shared, self.peer_python, self.dry = shared, peer_python, dry
        self.rounds = 1
        self._number = 0
        self._limits: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._notes: list[str] = []

    # --- what is measured on ------------------------------------------------------------------------------------

    def pictures(self, verb: str, *words: object) -> Path:
        """A folder that pictures.py has made, once; see there."""
        name = "-".join(Path(str(word)).name.lstrip("-") for word in (verb, *words))
        place = self.kept / name
        if not place.exists():
            target = [place] if verb == "draw" else [words[0], place]
            command = [sys.executable, HERE / "pictures.py", verb, *target, *words[verb != "draw" :]]
            measure(command, log=place.parent / f"{name}.log", environment=self._home(None))
        read_all(place)
        return place

    def data(self, name: str, *words: object) -> Path:
        """A shared data set as folders; in a dry run drawn pictures with as many splits."""
        if not self.dry:
            return self.pictures("export", self.shared / "data" / name, *words)
        drawn = self.pictures("draw", "--count", DRAWN, "--splits")
        if "--three" not in words:
            two = self.kept / "drawn-two"
            if not two.exists():
                shutil.copytree(drawn, two, ignore=shutil.ignore_patterns("test"))
            return two
        return drawn

    def source(self, name: str) -> str:
        """A shared network's folder, or random:NAME; in a dry run the toy."""
        if self.dry:
            return str(TOY)
        return name if name.startswith("random:") else str(self.shared / "sources" / name)

    def size(self, wanted: int) -> int:
        """The side of the input; in a dry run 32."""
        return 32 if self.dry else wanted

    def epochs(self, wanted: int) -> int:
        """The number of epochs; in a dry run 2 at most."""
        return min(wanted, 2) if self.dry else wanted

    # --- the two sides ------------------------------------------------------------------------------------------

    def ours(self, data: Path, source: str, *flags: object, home: Path | None = None) -> Side:
        """`headstart fit`, with features and engines cold unless `home` is given."""
        folder = self.scratch / f"run-{self._next()}"
        command = [sys.executable, "-m", "headstart", "fit", data, "--source", source, "--out", folder, "--quiet"]
        outcome = measure(
            [*command, *flags], log=folder.with_suffix(".log"), environment=self._home(home), watch=folder / "log.jsonl"
        )
        self._say("headstart", outcome)
        record = json.loads((folder / "run.json").read_text())
        shutil.rmtree(folder)
        return Side(outcome, record)

    def peer(self, script: str, data: Path, source: str, **flags: object) -> Side:
        """A peer by the name of its script."""
        out = self.scratch / f"{script}-{self._next()}.json"
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        command = [self.peer_python, HERE / "peers" / f"{script}.py", "--data", data, "--source", source]
        outcome = measure([*command, *words, "--out", out], log=out.with_suffix(".log"))
        self._say(" ".join([script, str(flags.get("mode", ""))]), outcome)
        return Side(outcome, json.loads(out.read_text()))

    def in_turn(self, sides: dict[str, Callable[[], Side]], *, once: Iterable[str] = ()) -> dict[str, list[Side]]:
        """All sides one after the other, round by round; those in `once` in the first round only."""
        found: dict[str, list[Side]] = {name: [] for name in sides}
        for number in range(self.rounds):
            for name, run in sides.items():
                if number == 0 or name not in once:
                    found[name].append(run())
        return found

    # --- limits -------------------------------------------------------------------------------------------------

    def limits(self, data: Path, source: str, size: int, *, device: str = "cpu") -> dict[str, Any]:
        """What limits.py finds for these pictures and this network; measured once, and noted in words."""
        key = (str(data), source, size)
        if key not in self._limits:
            words = ("--data", data, "--source", source, "--size", size, "--device", device)
            found = self.script("limits.py", *words)
            self._limits[key] = found
        found = self._limits[key]
        forward = ", ".join(f"{name} {rate:,.0f}" for name, rate in found["forward"].items())
        self.note(
            f"Alone at {size} px: decoding {found['decode']:,.0f} images/s; forward {forward} images/s; matrix product "
            f"{found['gflops']['fp32']:,.0f} GFLOP/s fp32 and {found['gflops']['bf16']:,.0f} bf16, that is "
            f"{found['forward_limit']['fp32']:,.0f} and {found['forward_limit']['bf16']:,.0f} images/s of "
            f"{found['macs'] / 1e6:,.0f} M multiply-accumulates; memory copied at {found['copy_gb']:.0f} GB/s."
        )
        return found

    def script(self, name: str, *words: object) -> dict[str, Any]:
        """The JSON of another script beside this one."""
        out = self.scratch / f"{Path(name).stem}-{self._next()}.json"
        command = [sys.executable, HERE / name, *words, "--out", out]
        measure(command, log=out.with_suffix(".log"), environment=self._home(None))
        return dict(json.loads(out.read_text()))

    # --- words --------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Keep a sentence for the case that runs now."""
        if text not in self._notes:
            self._notes.append(text)

    def take_notes(self) -> list[str]:
        """The sentences since the last call."""
        taken, self._notes = self._notes, []
        return taken

    def fresh_home(self) -> Path:
        """An empty HEADSTART_HOME."""
        place = self.scratch / f"home-{self._next()}"
        place.mkdir(parents=True)
        return place

    def _home(self, home: Path | None) -> dict[str, str]:
        return {"HEADSTART_HOME": str(home or self.fresh_home())}

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _say(self, name: str, outcome: Outcome) -> None:
        print(f"   {name:28s} {outcome.seconds:8.1f} s  {outcome.peak_mb:7,.0f} MB", flush=True)


def seconds_of(sides: list[Side]) -> list[float]:
    """Whole processes."""
    return [side.seconds for side in sides]


def both(ours: list[Side], theirs: list[Side]) -> dict[str, Any]:
    """Accuracy and memory of both sides, for a row."""
    return {
        "accuracy": ([s.accuracy for s in ours], [s.accuracy for s in theirs]),
        "memory": ([s.outcome.peak_mb for s in ours], [s.outcome.peak_mb for s in theirs]),
    }


def share(limit: float, ours: list[float]) -> str:
    """A limit in seconds as a share of what was measured."""
    return f"{100 * limit / statistics.median(ours):.0f} %"
