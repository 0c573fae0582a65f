"""Messages, section 4 of the catalogue: every error is one line with what, which file and what to do; exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import headstart
from headstart import cli, errors
from headstart.data import decode
from headstart.records import FileOrigin, Item
from headstart.transfer import _runner_onnx
from toydata import write_shapes

ROOT = Path(__file__).resolve().parent.parent.parent


# --- all messages, from the code ------------------------------------------------------------------------------------

# A message that says itself what is wanted needs no remedy beside it.
SAYS_IT = (
    "must ", "Did you mean", "not both", "one of the two", "give it alone", "give one", "named toy", "is written as",
    "leave ", "only: for", "use linear", "belong to the strategy", "cannot be larger than",
)  # fmt: skip
# Messages without a way out, and why.
WITHOUT = {
    ("ship/model.py", "the model cannot be opened: {error}"): "the error inside says what to do",
    ("sources/base.py", "a classifier of shape … does not fit … native features"): "only our own code can ask for it",
    ("transfer/groups.py", "{name} is trained but has no learning rate"): "only our own code can ask for it",
    ("transfer/_heads_common.py", "features of shape {shape} do not fit … labels"): "arrays from Python: it says what",
    ("transfer/_heads_common.py", "there is no item to train a head on"): "arrays from Python: it says what",
    ("transfer/rank.py", "features of shape {shape} do not fit … labels"): "arrays from Python: it says what",
    ("transfer/rank.py", "there is no item to rank sources on"): "arrays from Python: it says what",
    ("transfer/similarity.py", "… and … rows of features do not fit … labels"): "arrays from Python: it says what",
    ("settings.py", "…"): "the messages of all mistakes together",
}


def test_every_message_for_the_user_names_a_way_out_or_is_listed_with_a_reason(make_docs: ModuleType) -> None:
    silent = {
        (one.module, one.what)
        for one in make_docs.messages()
        if one.kind not in ("UnreadableImage", "Interrupted", "HeadstartError")
        and not one.remedy
        and not any(words in one.what for words in SAYS_IT)
    }
    assert silent == set(WITHOUT)


def test_messages_are_single_sentences_without_an_end_that_two_stops_would_follow(make_docs: ModuleType) -> None:
    for one in make_docs.messages():
        assert "\n" not in one.what + one.remedy, one
        assert not one.what.endswith((".", "!")), one
        assert one.what[:1] not in " .", one


def test_no_error_is_raised_without_a_kind_and_every_kind_is_used(make_docs: ModuleType) -> None:
    kinds = {one.kind for one in make_docs.messages()}
    named = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert "UserError" not in kinds
    assert kinds >= named - {"UserError", "HeadstartError"}


def test_the_page_of_errors_is_written_from_the_code(make_docs: ModuleType) -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert page == make_docs.errors_page()
    for one in make_docs.messages():
        assert one.what.replace("|", "\\|") in page


# --- every kind, raised from outside --------------------------------------------------------------------------------

Words = Callable[[Path, Path, pytest.MonkeyPatch], list[str]]


def _fit(data: Path, place: Path, *more: str) -> list[str]:
    return ["fit", str(data), "--out", str(place / "run"), "--source", "toy", "--strategy", "frozen", *more, "--quiet"]


def _without_an_engine(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setattr(_runner_onnx, "missing", lambda engine: engine)
    return _fit(data, place, "--engine", "openvino")


def _into_a_file(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    (place / "run").write_text("mine")
    return _fit(data, place)


def _broken_run(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    (place / "run").mkdir()
    (place / "run" / "settings.json").write_text("{}")
    return ["resume", str(place / "run")]


def _gone_from_the_list(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    files = sorted(data.rglob("*.png"))
    rows = [f"{file},{file.parent.name}" for file in files]
    (place / "list.csv").write_text("\n".join(["file_name,label", *rows, f"{data}/disc/gone.png,disc"]))
    return ["predict", str(place / "nowhere"), str(files[0])]


def _an_export_that_differs(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    headstart.fit(data, place / "run", source="toy", strategy="frozen", cache=False)
    patch.setattr("headstart.ship.certify.TOLERANCE", -1.0)
    return ["export", str(place / "run"), "--quiet"]


def _no_network(data: Path, place: Path, patch: pytest.MonkeyPatch) -> list[str]:
    headstart.fit(data, place / "run", source="toy", strategy="frozen", cache=False)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return ["push", str(place / "run"), "me/shapes", "--quiet"]


KINDS: dict[str, tuple[Words, str, str]] = {
    # kind: the command, what it names, what to do
    "DataError": (lambda data, place, _: ["inspect", str(place / "nowhere")], "nowhere", "Check the path"),
    "SourceError": (
        lambda data, place, _: ["fit", str(data), "--out", str(place / "run"), "--source", "timm:resnet1888"],
        "resnet1888", "Did you mean",
    ),
    "SettingsError": (lambda data, place, _: _fit(data, place, "--device", "quantum"), "quantum", "Use auto, cpu"),
    "OutputError": (_into_a_file, "run]", "Choose another --out"),
    "RunError": (_broken_run, "settings.json", "Start again"),
    "ModelError": (_gone_from_the_list, "nowhere", "Give the --out folder"),
    "ExportError": (_an_export_that_differs, "does not answer as the model does", "--max-drop"),
    "HubError": (_no_network, "cannot be reached", "Check the network"),
    "MissingExtraError": (_without_an_engine, "openvino", "pip install 'headstart[openvino]'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_one_line_that_says_what_where_and_what_to_do_and_ends_with_2(
    kind: str, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, what, remedy = KINDS[kind]
    place = tmp_path / "place"
    place.mkdir()
    command = words(untouched, place, monkeypatch)
    made: list[BaseException] = []
    usual = cli._code
    monkeypatch.setattr(cli, "_code", lambda error: (made.append(error), usual(error))[1])
    before = sorted(place.rglob("*"))
    assert cli.run(command) == 2
    assert [type(error).__name__ for error in made] == [kind]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert what in told.err
    assert remedy in told.err
    assert "Traceback" not in told.err
    assert sorted(place.rglob("*")) == before, "something was written"


def test_the_kinds_above_are_all_that_a_user_can_mend() -> None:
    named = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    mended = {name for name in named if issubclass(getattr(errors, name), errors.UserError)}
    assert set(KINDS) == mended - {"UserError"}


def test_a_picture_that_cannot_be_read_is_an_entry_with_its_reason_and_a_lone_one_ends_with_2(
    frozen_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(errors.UnreadableImage, match=r"cut\.png") as caught:
        decode.load(Item("cut.png", FileOrigin(tmp_path / "cut.png")))
    assert cli.run(["predict", str(frozen_run), str(tmp_path / "cut.png"), "--json"]) == 2
    told = capsys.readouterr()
    (entry,) = json.loads(told.out)
    assert caught.value.reason in entry["error"]
    assert "none of the 1 files could be read" in told.err.splitlines()[-1]


STOPPED = """
import os, signal, sys
from headstart import cli
from headstart.transfer.tuning import Trainer
usual = Trainer._end_epoch
def end_epoch(self, at, val):
    if at.epoch == 1:
        os.kill(os.getpid(), int(sys.argv[1]))
    return usual(self, at, val)
Trainer._end_epoch = end_epoch
sys.exit(cli.run(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM], ids=["term"])
def test_an_interrupted_run_is_one_line_with_the_command_that_goes_on(
    number: signal.Signals, untouched: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    words = ["fit", str(untouched), "--out", str(run), "--source", "toy", "--strategy", "full", "--epochs", "2"]
    call = [sys.executable, "-c", STOPPED, str(int(number)), *words, "--batch-size", "16", "--quiet"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, check=False, env={**os.environ})
    assert done.returncode == 128 + number
    assert done.stderr == f"interrupted; go on with: headstart resume '{run}'\n"
    assert done.stdout == ""


# --- mistakes that people make, each through the command ------------------------------------------------------------


def _copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "copy"))


def _newer_model(run: Path, place: Path) -> list[str]:
    copy = _copied(run, place)
    file = copy / "model" / "headstart.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 9}))
    return ["predict", str(copy), str(copy)]


def _damaged_weights(run: Path, place: Path) -> list[str]:
    copy = _copied(run, place)
    with (copy / "model" / "model.safetensors").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"x")
    return ["predict", str(copy), str(copy)]


MISTAKES: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "a newer model": (_newer_model, "Install headstart 0"),
    "damaged weights": (_damaged_weights, "Copy the whole folder again"),
    "nothing to predict": (lambda run, place: ["predict", str(run), str(place / "none.jpg")], "none.jpg"),
    "an unknown split": (lambda run, place: ["evaluate", str(run), str(place / "data"), "--split", "tset"], "There is"),
    "an unknown flag": (lambda run, place: ["fit", str(place / "data"), "--epoch", "3"], "--epochs"),
    "no run": (lambda run, place: ["resume", str(place)], "Give the --out folder"),
    "an archive": (lambda run, place: ["inspect", str(place / "data.zip")], "Unpack it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_way_out(
    mistake: str, frozen_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "data", per_class=2)
    (tmp_path / "data.zip").write_bytes(b"PK\x03\x04")
    words, remedy = MISTAKES[mistake]
    assert cli.run(words(frozen_run, tmp_path)) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("error: ")] == told[-1:]
    assert remedy in told[-1]


def test_an_error_has_the_same_parts_in_python(tmp_path: Path) -> None:
    with pytest.raises(headstart.DataError) as caught:
        headstart.inspect(tmp_path / "nowhere")
    error: Any = caught.value
    assert (error.what, error.where) == ("no such file or folder", tmp_path / "nowhere")
    assert str(error) == f"{error.what} [{error.where}]. {error.remedy}"
