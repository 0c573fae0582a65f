"""Explaining from Python and from the command line: what is written, what is told, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import headstart
from headstart import _cli_shipping, cli
from headstart.errors import DataError
from noting import Noting
from toydata import folder_hash, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture("square", 800).resize((90, 50)).save(folder / "a.png")
    picture("disc", 801).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def test_explaining_writes_a_page_and_facts_and_leaves_the_run_as_it_was(
    frozen_run: Path, photos: Path, split_shapes: Path, tmp_path: Path
) -> None:
    before = folder_hash(frozen_run)
    found = headstart.explain(frozen_run, photos, tmp_path / "why")
    assert folder_hash(frozen_run) == before
    assert {path.name for path in (tmp_path / "why").iterdir()} == {"explain.html", "explain.json"}
    assert json.loads((tmp_path / "why" / "explain.json").read_text()) == found
    a, b, c = found
    assert c["error"]
    for one, answer in zip((a, b), headstart.predict(frozen_run, photos)[:2], strict=True):
        assert {name: one[name] for name in answer} == answer
        assert one["runner_up"] in answer["probabilities"]
        assert len(one["neighbours"]) == 5
        assert all(near["label"] in ("bar", "disc", "square") for near in one["neighbours"])
        if one["flip"] is not None:
            assert one["flip"]["label"] != answer["label"]
            assert all(0 <= edge <= 1 for edge in one["flip"]["box"])
    page = (tmp_path / "why" / "explain.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_the_same_call_explains_the_same_bit_for_bit(frozen_run: Path, photos: Path) -> None:
    assert headstart.explain(frozen_run, photos) == headstart.explain(frozen_run, photos)


def test_a_fine_tuned_network_is_explained_too(tuned_run: Path, photos: Path) -> None:
    found = headstart.explain(tuned_run, [photos / "a.png"])
    assert len(found[0]["neighbours"]) == 5


def test_training_pictures_that_are_gone_cost_a_note_and_those_that_were_named_an_error(
    frozen_run: Path, photos: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(frozen_run / "model", tmp_path / "copied")
    assert len(headstart.explain(frozen_run / "model", photos / "a.png")[0]["neighbours"]) == 5
    told = Noting()
    found = headstart.explain(alone, photos / "a.png", reporter=told)
    assert found[0]["neighbours"] == []
    assert len(told.notes) == 1
    assert "no nearest training pictures" in told.notes[0]
    with pytest.raises(DataError):
        headstart.explain(frozen_run, photos / "a.png", data=photos)
    told = Noting()
    headstart.explain(alone, photos / "a.png", neighbours=False, reporter=told)
    assert told.notes == []


def test_the_command_names_the_page_and_fails_when_nothing_could_be_read(
    frozen_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", str(frozen_run), str(photos), "--out", str(tmp_path / "why"), "--no-neighbours"]
    assert cli.run([*words, "--quiet", "--json"]) == 0
    assert [one["file"].rpartition("/")[2] for one in json.loads(capsys.readouterr().out)] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    words[2] = str(photos / "c.png")
    assert cli.run(words) == 2
    told = capsys.readouterr()
    assert str(tmp_path / "why" / "explain.html") in told.out
    assert "none of the 1 files could be read" in told.err


def test_the_command_hands_all_its_flags_to_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class Fake:
        @staticmethod
        def serve(run: Path, **options: Any) -> None:
            given.update(options, run=run)

    monkeypatch.setattr(_cli_shipping, "shipping", lambda: Fake)
    flags = ["--host", "0.0.0.0", "--port", "9", "--allow-host", "a.example", "--allow-host", "b.example"]
    assert cli.run(["serve", str(tmp_path), *flags, "--data", "x", "--no-neighbours"]) == 0
    del given["reporter"]
    assert given == {
        "run": tmp_path, "host": "0.0.0.0", "port": 9, "allow_hosts": ["a.example", "b.example"], "data": "x",
        "neighbours": False, "engine": "auto",
    }  # fmt: skip


def test_the_report_shows_where_the_model_looked_in_its_errors(tuned_run: Path) -> None:
    page = (tuned_run / "report.html").read_text()
    record = json.loads((tuned_run / "run.json").read_text())
    assert record["scores"]["test"]["accuracy"] < 1
    assert page.count('class="map"') >= 1
    assert "Show what the model looked at" in page
