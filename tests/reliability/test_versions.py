"""K of the catalogue: what a release wrote later versions read, and what a newer one wrote is refused by its version.

tools/make_release_fixture.py writes releases/VERSION; a fixture is never made anew, or it would say nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import api, cli, files
from headstart.errors import ModelError, RunError
from headstart.records import SCHEMA
from headstart.ship import model as ship
from headstart.transfer import checkpoint
from noting import Noting

RELEASES = sorted((Path(__file__).parent / "releases").iterdir())
LARGEST = 200_000  # bytes of a model or of a run
APART = 1e-3  # of a probability: other processors and versions round differently, other weights differ far more


@pytest.fixture(params=RELEASES, ids=lambda folder: folder.name)
def release(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a release wrote, as the working folder."""
    copy = Path(shutil.copytree(request.param, tmp_path / "release"))
    monkeypatch.chdir(copy)
    return copy


def golden(release: Path) -> dict[str, Any]:
    """The answers that belong to a release."""
    found: dict[str, Any] = json.loads((release / "golden.json").read_text("utf-8"))
    return found


def test_every_version_so_far_has_its_fixture() -> None:
    made = {json.loads((folder / "golden.json").read_text("utf-8"))["headstart"] for folder in RELEASES}
    assert made == {folder.name for folder in RELEASES}
    assert headstart.__version__ in made, "run tools/make_release_fixture.py for the new version"


@pytest.mark.parametrize("folder", RELEASES, ids=lambda folder: folder.name)
def test_a_fixture_is_small_and_names_no_place(folder: Path) -> None:
    for part in ("model", "run", "source", "pictures"):
        sizes = [path.stat().st_size for path in (folder / part).rglob("*") if path.is_file()]
        assert sum(sizes) < LARGEST
    for path in folder.rglob("*.json"):
        assert str(Path.home()) not in path.read_text("utf-8")
    assert files.read_json(folder / "run" / "settings.json")["directory"] == "."


# --- K1: old models and checkpoints ---------------------------------------------------------------------------------


def test_k1_the_model_of_a_release_predicts_its_golden_values(release: Path) -> None:
    wanted = golden(release)
    found = headstart.load("model").predict_proba(wanted["pictures"])
    assert np.abs(found - np.array(wanted["model"])).max() <= APART
    assert (found.argmax(1) == np.array(wanted["model"]).argmax(1)).all()
    assert cli.run(["predict", "model", *wanted["pictures"]]) == 0


def test_k1_a_checkpoint_of_a_release_goes_on_to_its_known_end(release: Path) -> None:
    wanted, before = golden(release), (release / "run" / "log.jsonl").read_text("utf-8").splitlines()
    assert cli.run(["resume", "run", "--quiet"]) == 0
    run = files.read_json(release / "run" / "run.json")
    log = [json.loads(line) for line in (release / "run" / "log.jsonl").open(encoding="utf-8")]
    assert json.loads(before[1]) == log[1], "the first epoch was trained again"
    assert [row["val_loss"] for row in log] == pytest.approx(wanted["val_loss"], abs=APART)
    assert run["curves"]["best"] == wanted["best_epoch"] > 1
    found = headstart.load("run").predict_proba(wanted["pictures"])
    assert np.abs(found - np.array(wanted["run"])).max() <= APART


def test_k1_the_model_of_a_release_is_a_source_and_is_judged(release: Path) -> None:
    assert headstart.evaluate("model", "pictures")["n"] == len(golden(release)["pictures"])
    run = headstart.fit("pictures", source="./model", strategy="frozen", engine="torch", cache=False).run
    assert run["source"]["address"] == "./model"


# --- K2: newer formats ----------------------------------------------------------------------------------------------


def newer(file: Path, **more: Any) -> Path:
    """Let a JSON file be of a newer format."""
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "schema": SCHEMA + 7, **more}), "utf-8")
    return file


def told_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that must end with 2."""
    capsys.readouterr()
    assert cli.run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def untouched_by(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says; no byte of the folder changes."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = told_once(words, capsys)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."} == {
        path: data for path, data in before.items() if path.name[0] != "."
    }
    assert f"format {SCHEMA + 7}" in told
    assert f"reads up to {SCHEMA}" in told
    return told


def test_k2_a_model_of_a_newer_format_is_refused_with_the_version_wanted(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer(release / "model" / "headstart.json", headstart="7.5.0")
    told = untouched_by(["predict", "model", *golden(release)["pictures"]], release, capsys)
    assert "Install headstart 7.5.0 or newer" in told


@pytest.mark.parametrize("name", ["settings.json", "run.json"])
def test_k2_a_run_of_a_newer_format_is_refused(name: str, release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (release / "run" / "run.json").write_text('{"schema": 1}') if name == "run.json" else None
    newer(release / "run" / name)
    assert "Install a newer headstart" in untouched_by(["resume", "run", "--quiet"], release, capsys)


def test_k2_a_checkpoint_of_a_newer_format_is_refused_and_not_passed_over(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state,) = (release / "run").rglob("state.json")
    newer(state, headstart="7.5.0", own=None)
    told = untouched_by(["resume", "run", "--quiet"], release / "run" / "checkpoints", capsys)
    assert "Install headstart 7.5.0 or newer" in told
    with pytest.raises(RunError, match="format 8"):
        checkpoint.load_latest(release / "run" / "checkpoints")


def test_k2_a_race_of_a_newer_format_is_refused(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = files.read_json(release / "run" / "settings.json")
    settings["settings"].update(strategy="auto", train_last=None, budget="20s", scratch=False)
    files.write_json(release / "run" / "settings.json", settings)
    (release / "run" / "race.json").write_text(json.dumps({"schema": SCHEMA + 7}))
    shutil.rmtree(release / "run" / "checkpoints")
    assert "race.json" in untouched_by(["resume", "run", "--quiet"], release, capsys)


def test_k2_rows_that_a_newer_version_kept_are_not_used_and_not_touched(release: Path) -> None:
    options = {"source": "./source", "strategy": "frozen", "engine": "torch", "views": 0}
    first = headstart.fit("pictures", **options).run["work"]
    for file in list(files.home().rglob("key.json")):  # a newer version writes into folders of other names
        key = files.read_json(file)
        files.write_json(file, {**key, "key": {**key["key"], "format": 99}})
        file.parent.rename(file.parent.with_name("f" * len(file.parent.name)))
    kept = {path: path.read_bytes() for path in files.home().rglob("*.safetensors")}
    again = headstart.fit("pictures", **options).run["work"]
    assert first["features_computed"] == again["features_computed"] > 0
    assert {path: path.read_bytes() for path in kept} == kept


# --- K4: drift --------------------------------------------------------------------------------------------------------


def test_k4_a_library_that_computes_otherwise_is_told_with_the_versions_the_model_was_made_with(
    release: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ship.augment.normalise
    monkeypatch.setattr(ship.augment, "normalise", lambda images, card: usual(images, card) * 1.2)
    with pytest.raises(ModelError, match=r"answers moved by 0\.\d+"):
        headstart.load("model")
    told = told_once(["predict", "model", golden(release)["pictures"][0]], capsys)
    assert "'torch'" in told
    assert "'pillow'" in told


def test_k4_a_drift_below_the_limit_is_no_error(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ship.augment.normalise
    monkeypatch.setattr(ship.augment, "normalise", lambda images, card: usual(images, card) * (1 + 1e-6))
    assert headstart.load("model").classes == ("across", "down", "slanting")


def test_a_finished_run_is_returned_by_resume_and_no_byte_changes(release: Path) -> None:
    """C7 with a run of a release."""
    api.resume("run")
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    listener = Noting()
    assert api.resume("run", reporter=listener).run["plan"]["strategy"] == "partial"
    assert any("finished" in text for text in listener.said)
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before
