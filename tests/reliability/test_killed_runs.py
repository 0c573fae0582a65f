"""C1, C2, C6, C8: a run that is killed anywhere, and goes on until it is done, is the run that was left alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import _kills
import pytest
from _kills import NEVER, Forks, Fresh, Moment, Place, Runs, differences, outcome, to_the_end
from figures import record

from headstart import runfolder
from headstart.ship.model import load
from toydata import CLASSES, folder_hash, picture, write_shapes

COMMON = ["--source", "toy", "--engine", "torch", "--quiet"]
ON_DICE = [
    "--augment",
    "--vflip",
    "--mixup",
    "0.2",
    "--ema",
    "0.9",
    "--head",
    "mlp",
    "--batch-size",
    "8",
]  # dropout too
SCENARIOS = {
    "frozen": ["fit", "DATA", "--strategy", "frozen"],
    "full, 2 workers": ["fit", "DATA", "--strategy", "full", "--epochs", "3", "--workers", "2", *ON_DICE],
    "partial, 0 workers": ["fit", "DATA", "--strategy", "partial", "--epochs", "3", "--workers", "0", *ON_DICE],
    "auto": ["fit", "DATA", "--budget", "30m", "--no-scratch", "--epochs", "2", "--folds", "3", "--error-rate", "0.2"],
    "compare": ["compare", "DATA", "--strategies", "scratch,frozen,partial", "--epochs", "2", *ON_DICE],
}
SHORT = {
    "frozen": SCENARIOS["frozen"],
    "full, 2 workers": [*SCENARIOS["full, 2 workers"], "--no-probe-first"],
}
OFTEN = (("SAVE_SECONDS", "0"),)  # a state after every step, so that kills fall into saves and between them


@dataclass
class Stage:
    """A server, the data, and the runs that were left alone."""

    forks: Forks
    root: Path
    data: Path
    whole: dict[str, tuple[dict[str, object], float]] = field(default_factory=dict)

    def words(self, name: str, scenarios: dict[str, list[str]]) -> list[str]:
        """The command of a scenario."""
        words = [str(self.data) if word == "DATA" else word for word in scenarios[name]]
        return [*words, "--out", "run", *COMMON]

    def place(self, name: str) -> Place:
        """Where one run lives."""
        return Place(self.root / name.replace(" ", "-").replace(",", ""), OFTEN)

    def alone(self, name: str, scenarios: dict[str, list[str]]) -> tuple[dict[str, object], float]:
        """What a run that is left alone gives, and its seconds; its deeds are in a file beside it."""
        key = f"{name} of {len(scenarios)}"
        if key not in self.whole:
            place = self.place(key)
            ended = self.forks.go(self.words(name, scenarios), place, NEVER, place.root.with_suffix(".log"))
            assert ended.code == 0, ended
            self.whole[key] = outcome(place.run), ended.seconds
        return self.whole[key]

    def deeds_of(self, name: str, scenarios: dict[str, list[str]]) -> Path:
        """The file of the deeds of the run that was left alone."""
        return self.place(f"{name} of {len(scenarios)}").root.with_suffix(".log")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("kills")
    data = write_shapes(root / "data", splits={"train": 8, "val": 4, "test": 4})
    (data / "train" / "disc" / "broken.png").write_bytes(b"no picture")
    shutil.copy(data / "train" / "bar" / "000.png", data / "train" / "bar" / "twin.png")
    before = folder_hash(data)
    with _kills.serving() as forks:
        yield Stage(forks, root, data)
    assert folder_hash(data) == before, "the user's pictures were changed"


def kill_again_and_again(
    stage: Stage, name: str, scenarios: dict[str, list[str]], *, kills: int, seed: int, runs: Runs | None = None
) -> dict[str, int]:
    """Strike runs of a scenario until there were so many kills; how many left what, and how many runs there were."""
    runs, words = runs or stage.forks, stage.words(name, scenarios)
    wanted, seconds = stage.alone(name, scenarios)
    whole = stage.place(f"{name} of {len(scenarios)}").run
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    seconds *= 1.0 if runs is stage.forks else 2.0  # a process of its own starts slowly
    told = {"nothing": 0, "begun": 0, "finished": 0, "runs": 0, "two kills": 0}
    while sum(told[left] for left in ("nothing", "begun", "finished")) < kills:
        assert told["runs"] <= 3 * kills, "the runs end before they are struck"
        struck = _kills.moments(seed, told["runs"], log=stage.deeds_of(name, scenarios), seconds=seconds, sizes=sizes)
        place = stage.place(f"{name} {seed} {told['runs']}")
        lefts = to_the_end(runs, words, place, struck)
        assert differences(wanted, outcome(place.run)) == [], struck
        for left in lefts:
            told[left] += 1
        told["two kills"] += len(lefts) == 2
        told["runs"] += 1
        shutil.rmtree(place.root)
    return told


def test_a_forked_run_gives_the_bytes_of_a_fresh_process(stage: Stage) -> None:
    wanted, _ = stage.alone("frozen", SHORT)
    place = stage.place("fresh")
    assert Fresh().go(stage.words("frozen", SHORT), place).code == 0
    assert differences(wanted, outcome(place.run)) == []


@pytest.mark.parametrize(("name", "kills", "seed"), [("frozen", 4, 1), ("full, 2 workers", 4, 2)])
def test_killed_anywhere_and_gone_on_with_a_run_ends_as_if_left_alone(
    stage: Stage, name: str, kills: int, seed: int
) -> None:
    """C1, C2: weights, optimiser, metrics, predictions, model, report and record."""
    kill_again_and_again(stage, name, SHORT, kills=kills, seed=seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "kills"),
    [("frozen", 40), ("full, 2 workers", 45), ("partial, 0 workers", 45), ("auto", 20), ("compare", 15)],
)
def test_two_hundred_kills_forked(stage: Stage, name: str, kills: int) -> None:
    """C1, C2: 165 kills of forked runs; the other 40 are of fresh processes."""
    record(
        "killed runs", scenario=name, how="forked", **kill_again_and_again(stage, name, SCENARIOS, kills=kills, seed=7)
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "kills"), [("frozen", 20), ("full, 2 workers", 10), ("partial, 0 workers", 10)])
def test_two_hundred_kills_fresh(stage: Stage, name: str, kills: int) -> None:
    """C1, C2: 40 kills of processes as a user starts them."""
    told = kill_again_and_again(stage, name, SCENARIOS, kills=kills, seed=11, runs=Fresh())
    record("killed runs", scenario=name, how="fresh", **told)


# --- states in which neither fit nor resume could go on -------------------------------------------------------------


def begun_deed(stage: Stage) -> int:
    """The deed by which settings.json takes its name: before it nothing has begun."""
    stage.alone("frozen", SHORT)
    lines = stage.deeds_of("frozen", SHORT).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.startswith("os.rename /run/.settings.json"))


def test_killed_before_settings_were_written_resume_says_so_and_fit_begins_in_the_same_folder(stage: Stage) -> None:
    place = stage.place("early")
    wanted, _ = stage.alone("frozen", SHORT)
    assert to_the_end(stage.forks, stage.words("frozen", SHORT), place, [Moment(deed=begun_deed(stage))]) == ["nothing"]
    assert differences(wanted, outcome(place.run)) == []


def test_killed_after_settings_were_written_fit_names_resume(stage: Stage) -> None:
    place, words = stage.place("late"), stage.words("frozen", SHORT)
    assert stage.forks.go(words, place, Moment(deed=begun_deed(stage) + 1)).code == -9
    refused = stage.forks.go(words, place)
    assert (refused.code, "headstart resume run" in refused.err) == (2, True)
    assert stage.forks.go(["resume", "run", "--quiet"], place).code == 0
    assert differences(stage.alone("frozen", SHORT)[0], outcome(place.run)) == []


OVERWRITE = """
from pathlib import Path
from headstart import runfolder
started = {"schema": 1, "verb": "fit", "data": "new", "directory": "/", "strategies": [], "settings": {}}
with runfolder.hold(Path("run"), started, overwrite=True, going_on=False):
    pass
"""


def test_killed_at_any_deed_of_clearing_an_overwritten_run_one_of_both_can_be_taken_up(stage: Stage) -> None:
    """The old run or the new one: there is no moment at which the folder belongs to neither."""
    stage.alone("full, 2 workers", SHORT)
    source = stage.place(f"full, 2 workers of {len(SHORT)}").run
    place, log = stage.place("cleared"), stage.root / "cleared.log"
    seen, number = set(), 0
    while True:
        shutil.rmtree(place.run, ignore_errors=True)
        shutil.copytree(source, place.run)
        (place.run / "model" / "reject.safetensors").write_bytes(b"of an old model")
        ended = stage.forks.do(OVERWRITE, place, Moment(deed=number), log=log if number == 0 else None)
        assert ended.code == (0 if number == 0 else -9), ended
        last = len(log.read_text().splitlines())
        data = runfolder.read(place.run / "settings.json")["data"]  # there and whole
        if data == "new":
            assert runfolder.content(place.run) == {"settings.json"}, "the new run would find something of the old one"
        elif (place.run / "run.json").exists():
            for extra in (place.run / "model" / "reject.safetensors", *place.run.rglob(".*.tmp")):
                extra.unlink()
            assert differences(outcome(source), outcome(place.run)) == []
        runfolder.check(place.run, overwrite=True)
        seen.add(data == "new")
        number += 1 if number < 20 else 4
        if number > last:
            break
    assert seen == {True, False}


DEMO = """
from headstart import api, demo
write = demo.write_digits
demo.write_digits = lambda folder: write(folder, classes=(5,))
api.fit = lambda *_, **__: print("begun")
api.demo("run")
"""


def test_a_demo_that_was_killed_while_it_wrote_its_data_can_be_shown_again(stage: Stage) -> None:
    place = stage.place("demo")
    assert stage.forks.go(["demo", "--out", "run", "--quiet"], place, Moment(deed=300)).code == -9
    assert not (place.run / "run").exists()
    assert stage.forks.do(DEMO, place).out == "begun\n"
    (place.run / "data" / "train" / "mine.png").write_bytes(b"mine")
    assert "no demo" in stage.forks.do("from headstart import api\napi.demo('run')", place).err


# --- C6: other data at resume ----------------------------------------------------------------------------------------


def without_locks(folder: Path) -> dict[str, str]:
    """The hashes of a folder's files."""
    return {name: found for name, found in folder_hash(folder).items() if ".lock" not in name}


def test_other_data_at_resume_are_refused_each_difference_named_and_the_run_waits(tmp_path: Path) -> None:
    """C6: also where no checkpoint was written, as in runs on frozen features."""
    data = write_shapes(tmp_path / "data", splits={"train": 6, "val": 3, "test": 3})
    words = ["fit", str(data), "--out", "run", "--strategy", "frozen", *COMMON]
    with _kills.serving() as forks:
        whole, place = Place(tmp_path / "whole"), Place(tmp_path / "killed")
        assert forks.go(words, whole, NEVER, tmp_path / "log").code == 0
        lines = (tmp_path / "log").read_text().splitlines()
        model = next(n for n, line in enumerate(lines, 1) if line.startswith("os.rename /run/model"))
        assert forks.go(words, place, Moment(deed=model)).code == -9
        state = without_locks(place.run)
        kept = shutil.copytree(data, tmp_path / "kept")
        (data / "train" / "bar" / "000.png").unlink()
        picture("disc", 99).save(data / "test" / "disc" / "009.png")
        os.rename(data / "val" / "square" / "006.png", data / "val" / "square" / "other.png")  # noqa: PTH104
        (data / "train" / "star").mkdir()
        picture("disc", 98).save(data / "train" / "star" / "1.png")
        told = forks.go(["resume", "run", "--quiet"], place)
        assert (told.code, told.err.count("\n"), "Traceback" in told.err) == (2, 1, False)
        for phrase in (
            f"the classes are {', '.join((*CLASSES, 'star'))} and were {', '.join(CLASSES)}",
            "train/bar has 5 items and had 6", "test/disc has other items", "val/square has other items",
            "train/star has 1 items and had 0", "--out",
        ):  # fmt: skip
            assert phrase in told.err, told.err
        assert without_locks(place.run) == state
        shutil.rmtree(data)
        shutil.copytree(kept, data)
        assert forks.go(["resume", "run", "--quiet"], place).code == 0
        assert differences(outcome(whole.run), outcome(place.run)) == []


def test_resume_takes_no_options_so_none_can_differ(stage: Stage) -> None:
    """C6: what was asked for stands in settings.json alone."""
    place = stage.place(f"frozen of {len(SHORT)}")
    stage.alone("frozen", SHORT)
    told = stage.forks.go(["resume", "run", "--epochs", "9"], place)
    assert (told.code, "--epochs" in told.err) == (2, True)


def test_a_run_that_goes_on_elsewhere_says_what_differs(stage: Stage) -> None:
    place, words = stage.place("moved"), stage.words("frozen", SHORT)
    assert stage.forks.go(words, place, Moment(deed=begun_deed(stage) + 3)).code == -9
    settings = json.loads((place.run / "settings.json").read_text())
    settings["begun"]["environment"]["torch"] = "1.0"
    (place.run / "settings.json").write_text(json.dumps(settings))
    told = stage.forks.go(["resume", "run"], place)
    assert told.code == 0, told
    assert "the run was begun with torch 1.0, now 2" in told.err.replace("\n", " ")


# --- C8: a model saved over another --------------------------------------------------------------------------------

SAVE = """
import torch
from headstart.ship.model import load
torch.set_num_threads(1)
load("new").save("run")
"""


def test_killed_at_any_deed_of_saving_over_a_model_the_old_or_the_new_one_is_opened(stage: Stage) -> None:
    """C8: the old export stays whole until the new one is."""
    stage.alone("frozen", SHORT)
    stage.alone("full, 2 workers", SHORT)
    one, two = (stage.place(f"{name} of {len(SHORT)}").run / "model" for name in SHORT)
    place, log = stage.place("saved"), stage.root / "saved.log"
    place.root.mkdir()
    shutil.copytree(two, place.root / "new")
    shutil.copytree(one, place.run)
    assert stage.forks.do(SAVE, place, NEVER, log).code == 0
    changing = _kills.deeds(log)[1]
    seen = []
    for deed in changing:
        shutil.rmtree(place.run)
        shutil.copytree(one, place.run)
        assert stage.forks.do(SAVE, place, Moment(deed=deed)).code == -9
        seen.append(load(place.run).plan.strategy)
    assert seen == sorted(seen), seen  # frozen, then full, and never again the old one
    assert {"frozen", "full"} == set(seen)
