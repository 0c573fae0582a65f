"""C5: Ctrl-C and SIGTERM end a run soon, with its state saved, the code of the signal, and the command that goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _kills
import pytest
from _kills import NEVER, Forks, Fresh, Moment, Place, Runs, differences, outcome
from figures import record

from toydata import folder_hash, write_shapes

SOON = 60.0  # seconds from the signal to the end, on a busy machine; the long test says what it takes on a free one
SAVED = (("SAVE_SECONDS", "60"),)  # after every epoch, however slow the disk is at the moment
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = ["--out", "run", "--source", "toy", "--engine", "torch", "--quiet", "--strategy"]
TUNED = ["full", "--epochs", "3", "--batch-size", "16", "--no-probe-first", "--workers", "2"]


@dataclass
class Stage:
    """A server, the data, and what runs give that are left alone."""

    forks: Forks
    root: Path
    commands: dict[str, list[str]]
    whole: dict[str, dict[str, object]]

    def deed(self, kind: str, beginning: str) -> int:
        """The number of the first deed that begins so, of a run that is left alone."""
        lines = (self.root / f"{kind}.log").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if line.startswith(beginning))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("signals")
    data = write_shapes(root / "data", splits={"train": 8, "val": 4, "test": 4})
    before = folder_hash(data)
    commands = {"frozen": ["fit", str(data), *WORDS, "frozen"], "tuned": ["fit", str(data), *WORDS, *TUNED]}
    with _kills.serving() as forks:
        whole = {}
        for name, words in commands.items():
            assert forks.go(words, Place(root / name, SAVED), NEVER, root / f"{name}.log").code == 0
            whole[name] = outcome(root / name / "run")
        yield Stage(forks, root, commands, whole)
    assert folder_hash(data) == before, "the user's pictures were changed"


def signalled(stage: Stage, kind: str, runs: Runs, *, at: Moment, name: str) -> tuple[str, float]:
    """Send a signal, check how the run ended, go on, compare; what it left, and the seconds it took to end."""
    place = Place(stage.root / name, SAVED)
    ended = runs.go(stage.commands[kind], place, at)
    if ended.code == 0:  # it was done before
        return "done", 0.0
    assert ended.code in (CODES[signal.Signals(at.by)], -at.by), ended  # the latter: Python had hardly begun
    begun = (place.run / "settings.json").is_file()
    if begun:
        assert ended.err.strip().endswith("go on with: headstart resume run"), ended
        assert runs.go(["resume", "run", "--quiet"], place).code == 0
    else:
        assert not place.run.exists() or not {p.name for p in place.run.iterdir()} - {".lock"}, ended
        assert runs.go(stage.commands[kind], place).code == 0
    assert differences(stage.whole[kind], outcome(place.run)) == []
    return "begun" if begun else "nothing", ended.seconds


WHEN = {
    "the data are read": ("frozen", f"os.rename /home{os.sep}seen", "nothing"),
    "an epoch ends": ("tuned", "os.rename /run/checkpoints", "begun"),
    "the model is written": ("frozen", "os.rename /run/model", "begun"),
}


@pytest.mark.parametrize(("when", "by"), [*((when, signal.SIGTERM) for when in WHEN), ("an epoch ends", signal.SIGINT)])
def test_a_signal_ends_the_run_with_its_code_and_the_command_that_goes_on(
    stage: Stage, when: str, by: signal.Signals
) -> None:
    kind, deed, left = WHEN[when]
    at = Moment(deed=stage.deed(kind, deed), by=by)
    assert signalled(stage, kind, stage.forks, at=at, name=f"{when} {by.name}")[0] == left


def test_a_fresh_process_hears_sigterm_too(stage: Stage) -> None:
    at = Moment(when="run/log.jsonl", by=signal.SIGTERM)
    assert signalled(stage, "tuned", Fresh(), at=at, name="fresh")[1] < SOON


def test_a_second_ctrl_c_ends_at_once_though_a_save_takes_long(stage: Stage) -> None:
    """What was saved before is gone on with."""
    place = Place(stage.root / "second", (*SAVED, ("SLOW_SYNC", "state.safetensors=120")))
    at = Moment(when="run/checkpoints", by=signal.SIGINT, again=1.0)
    ended = stage.forks.go(stage.commands["tuned"], place, at)
    assert ended.code == 130, ended
    assert ended.seconds < SOON
    assert "headstart resume run" in ended.err
    assert stage.forks.go(["resume", "run", "--quiet"], Place(place.root, SAVED)).code == 0
    assert differences(stage.whole["tuned"], outcome(place.run)) == []


def test_a_signal_after_the_record_was_written_names_the_run_and_leaves_it_whole(stage: Stage) -> None:
    """run.json stands: to go on says that it is finished, and the same call again would be refused."""
    place = Place(stage.root / "late", SAVED)
    at = Moment(deed=stage.deed("frozen", "os.rename /run/.run.json") + 1, by=signal.SIGTERM)
    ended = stage.forks.go(stage.commands["frozen"], place, at)
    assert ended.code == 143, ended
    assert "headstart resume run" in ended.err
    assert "finished" in stage.forks.go(["resume", "run"], place).err
    assert differences(stage.whole["frozen"], outcome(place.run)) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_signals_at_moments_all_over_the_run(stage: Stage, kind: str, by: signal.Signals) -> None:
    """C5: twenty moments of fresh processes, from the first import to the last file."""
    moments = [Moment(after=0.3 + 0.2 * n, by=by) for n in range(20)]
    told = [
        signalled(stage, kind, Fresh(), at=at, name=f"{kind} {by.name} {number}") for number, at in enumerate(moments)
    ]
    lefts, longest = [left for left, _ in told], max(seconds for _, seconds in told)
    counts = {left: lefts.count(left) for left in ("nothing", "begun", "done")}
    record("signals", run=kind, signal=by.name, longest_seconds=round(longest, 2), **counts)
    assert longest < SOON
