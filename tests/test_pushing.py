"""A run's model on the Hub: what arrives, byte for byte, what never does, what is refused, and how it opens again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart import cli, files
from headstart.errors import HubError, ModelError, SettingsError
from hub_server import FakeHub, hub_at
from toydata import folder_hash

SENT = {"README.md", "headstart.json", "config.json", "model.safetensors", "head.safetensors"}
EXPORT = {"exports/onnx-fp32/model.onnx", "exports/onnx-fp32/certificate.json"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with hub_at(tmp_path / "hub-cache") as found:
        yield found


@pytest.fixture
def run(frozen_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(frozen_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def exported_once(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an export; to read, not to change."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    run = Path(shutil.copytree(frozen_run, tmp_path_factory.mktemp("exported") / "run"))
    headstart.export(run)
    return run


@pytest.fixture
def exported(exported_once: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(exported_once, tmp_path / "exported"))


# --- what arrives ---------------------------------------------------------------------------------------------------


def test_the_files_of_the_model_arrive_in_one_commit_and_nothing_else_does(run: Path, hub: FakeHub) -> None:
    (run / "model" / "notes.txt").write_text("mine")
    before = folder_hash(run)
    made = headstart.push(run, "me/shapes")
    there = hub.repositories["me/shapes"]
    assert {*there.files()} - {".gitattributes"} == SENT
    assert len(there.history) == 2
    for name in ("config.json", "model.safetensors", "head.safetensors"):
        assert there.files()[name] == (run / "model" / name).read_bytes()
    assert there.files()["README.md"].decode() == made["card"]
    assert made["commit"] == there.branches["main"]
    assert made["url"] == f"{hub.url}/me/shapes"
    assert [(entry["name"], entry["bytes"]) for entry in made["files"]] == [
        (entry["name"], len(there.files()[entry["name"]])) for entry in made["files"]
    ]
    assert folder_hash(run) == before


def test_exports_arrive_with_their_certificates_and_belong_to_the_model_that_arrives(
    exported: Path, hub: FakeHub, tmp_path: Path, split_shapes: Path
) -> None:
    certificate = exported / "exports" / "onnx-fp32" / "certificate.json"
    told = files.read_json(certificate)
    told["whole"]["flipped"] = ["test/bar/patient-7.png"]
    files.write_json(certificate, told)
    headstart.push(exported, "me/shapes")
    there = hub.repositories["me/shapes"].files()
    assert {*there} - {".gitattributes"} == SENT | EXPORT
    assert there["exports/onnx-fp32/model.onnx"] == (exported / "exports/onnx-fp32/model.onnx").read_bytes()
    for name, data in there.items():
        place = tmp_path / "copy" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    answers = headstart.predict(tmp_path / "copy", split_shapes / "test", engine="onnx")
    assert len(answers) == 24
    assert files.read_json(tmp_path / "copy/exports/onnx-fp32/certificate.json")["whole"]["other_answers"] == 1
    assert b"exports/onnx-fp32/model.onnx" in there["README.md"]


def test_no_path_of_this_machine_and_no_name_of_a_picture_is_in_any_byte_that_arrives(
    split_shapes: Path, exported: Path, hub: FakeHub, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(exported / "model", tmp_path / "secret place" / "base"))
    headstart.fit(split_shapes, tmp_path / "again", source=str(source), strategy="frozen", head="linear", cache=False)
    headstart.push(exported, "me/shapes")
    headstart.push(tmp_path / "again", "me/again")
    words = [tmp_path, tmp_path.parent, split_shapes, split_shapes.parent, "secret place", Path.home() / "x"]
    names = [path.name for path in (split_shapes / "test").rglob("*.png")]
    for repository in hub.repositories.values():
        for name, data in repository.files().items():
            assert not [word for word in words if str(word).encode() in data], name
            assert not [picture for picture in names if picture.encode() in data], name
    assert b"shapes" in hub.repositories["me/shapes"].files()["README.md"]  # the last name is told


def test_a_second_push_replaces_the_first_and_takes_away_what_is_no_longer_sent(exported: Path, hub: FakeHub) -> None:
    headstart.push(exported, "me/shapes")
    there = hub.repositories["me/shapes"]
    first = there.branches["main"]
    headstart.push(exported / "model", "me/shapes")
    assert {*there.files()} - {".gitattributes"} == SENT
    assert {*there.files(first)} >= EXPORT  # what was there before stays in the history


def test_exports_of_another_model_and_of_torch_stay_here(exported: Path, hub: FakeHub) -> None:
    file = exported / "exports" / "onnx-fp32" / "certificate.json"
    told = files.read_json(file)
    program = {"model.pt2": next(iter(told["export"]["files"].values()))}
    changes = {
        "export": {**told["export"], "to": "torch", "files": program},
        "model": {**told["model"], "sha256": "0" * 64},
    }
    for name, words in (("export", "places of Python's files"), ("model", "made of another model")):
        files.write_json(file, {**told, name: changes[name]})
        (left,) = headstart.push(exported, "me/shapes", dry_run=True)["left_out"]
        assert left.startswith("onnx-fp32: ")
        assert words in left
    headstart.push(exported, "me/shapes")
    assert {*hub.repositories["me/shapes"].files()} - {".gitattributes"} == SENT


def test_a_repository_is_private_unless_it_is_to_be_public(run: Path, hub: FakeHub) -> None:
    assert headstart.push(run, "me/one")["private"] is True
    assert headstart.push(run, "me/two", private=False)["private"] is False
    assert [hub.repositories[name].private for name in ("me/one", "me/two")] == [True, False]
    assert headstart.push(run, "me/one", private=False)["private"] is True  # it stays what its owner made it


def test_a_branch_is_made_where_it_is_missing_and_the_main_one_stays(run: Path, hub: FakeHub) -> None:
    headstart.push(run, "me/shapes@trial")
    there = hub.repositories["me/shapes"]
    assert {*there.files("main")} == {".gitattributes"}
    assert {*there.files("trial")} >= SENT
    headstart.push(run, "me/shapes")
    headstart.push(run, "me/shapes@second")
    assert {*there.files("second")} >= SENT


def test_a_dry_run_asks_nobody_and_writes_nothing(run: Path, hub: FakeHub) -> None:
    before = folder_hash(run)
    made = headstart.push(run, "me/shapes", dry_run=True)
    assert hub.asked == []
    assert folder_hash(run) == before
    assert "url" not in made
    sent = headstart.push(run, "me/shapes")
    assert sent["files"] == made["files"]
    assert sent["card"] == made["card"]


def test_a_model_folder_alone_is_pushed_with_what_it_knows(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(run / "model", tmp_path / "elsewhere"))
    card = headstart.push(bare, "me/bare")["card"]
    scores = files.read_json(run / "run.json")["scores"]["test"]
    assert f"{scores['accuracy']:.3f}" in card
    assert "disc" in card


# --- opening again --------------------------------------------------------------------------------------------------


def test_what_was_pushed_opens_by_its_address_and_answers_the_same_also_without_the_hub(
    run: Path, hub: FakeHub, split_shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headstart.push(run, "me/shapes")
    pictures = split_shapes / "test"
    here = headstart.load(run).predict_proba(pictures)
    assert np.array_equal(headstart.load("hf-hub:me/shapes").predict_proba(pictures), here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert np.array_equal(headstart.load("hf-hub:me/shapes").predict_proba(pictures), here)
    answers = headstart.predict("hf-hub:me/shapes", pictures)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in headstart.predict(run, pictures)]


def test_a_card_that_was_edited_on_the_hub_does_not_close_the_model(run: Path, hub: FakeHub) -> None:
    headstart.push(run, "me/shapes")
    there = hub.repositories["me/shapes"]
    there.commit("main", {**there.files(), "README.md": b"# mine"})
    assert headstart.load("hf-hub:me/shapes").classes == headstart.load(run).classes


def test_changed_weights_on_the_hub_are_found(run: Path, hub: FakeHub) -> None:
    headstart.push(run, "me/shapes")
    there = hub.repositories["me/shapes"]
    data = bytearray(there.files()["model.safetensors"])
    data[-1] ^= 1
    there.commit("main", {**there.files(), "model.safetensors": bytes(data)})
    with pytest.raises(ModelError, match="not as it was saved"):
        headstart.load("hf-hub:me/shapes")


def test_a_revision_is_another_model(run: Path, tuned_run: Path, hub: FakeHub) -> None:
    headstart.push(run, "me/shapes")
    headstart.push(tuned_run, "me/shapes@tuned")
    assert headstart.load("hf-hub:me/shapes").plan.strategy == "frozen"
    assert headstart.load("hf-hub:me/shapes@tuned").plan.strategy == "full"


def test_what_is_pushed_is_a_source(run: Path, hub: FakeHub) -> None:
    from headstart.sources import open_source

    headstart.push(run, "me/shapes")
    assert open_source("timm:hf-hub:me/shapes").card.classes == headstart.load(run).classes


def test_the_programs_in_the_card_run_as_they_stand_and_agree(
    split_shapes: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = {"source": "random:test_resnet", "strategy": "frozen", "head": "linear", "cache": False}
    headstart.fit(split_shapes, tmp_path / "run", **options)
    card = headstart.push(tmp_path / "run", "me/shapes")["card"]
    assert 'library_name: "timm"' in card
    Image.open(split_shapes / "test/bar/015.png").save(tmp_path / "picture.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    with_headstart, with_timm = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    ours: dict[str, Any] = {}
    exec(compile(with_headstart, "card", "exec"), ours)
    capsys.readouterr()
    exec(compile(with_timm, "card", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    (answer,) = ours["answers"]
    assert label == answer.label
    assert float(probability) == pytest.approx(answer.probability, abs=0.02)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["shapes", "", "/", "me/", "me/a b", "me/a/b", "me/../x", "me/a--b", "me/x.git", "ü/x"]
)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_asked(run: Path, hub: FakeHub, name: str) -> None:
    with pytest.raises(SettingsError, match=r"no name of a repository.*my-lab/ants-and-bees"):
        headstart.push(run, name)
    assert hub.asked == []


def test_without_a_token_the_way_to_one_is_told(run: Path, tmp_path: Path) -> None:
    with hub_at(tmp_path / "cache", token=None) as hub:
        with pytest.raises(HubError, match=r"asks who you are.*hf auth login.*HF_TOKEN"):
            headstart.push(run, "me/shapes")
        assert hub.repositories == {}
        assert headstart.push(run, "me/shapes", token="hf_mine")["commit"]


def test_a_refused_token_and_somebody_elses_name_are_told_apart(run: Path, hub: FakeHub) -> None:
    with pytest.raises(HubError, match=r"the token is refused"):
        headstart.push(run, "me/shapes", token="hf_expired")
    with pytest.raises(HubError, match=r"may not write here.*name of your own"):
        headstart.push(run, "other/shapes")
    hub.repository("other/public", files={"headstart.json": b"{}"})
    with pytest.raises(HubError, match=r"may not write here"):
        headstart.push(run, "other/public", private=False)
    hub.refuse["/api/repos/create"] = 409
    with pytest.raises(HubError, match=r"taken by somebody else.*another name"):
        headstart.push(run, "me/shapes")


def test_a_public_repository_gets_nothing_that_was_to_be_private(run: Path, hub: FakeHub) -> None:
    there = hub.repository("me/shapes")
    with pytest.raises(HubError, match=r"is public.*--public"):
        headstart.push(run, "me/shapes")
    assert len(there.history) == 1
    headstart.push(run, "me/shapes", private=False)
    assert len(there.history) == 2


def test_a_repository_that_holds_something_else_stays_as_it_is(run: Path, hub: FakeHub) -> None:
    there = hub.repository("me/other", private=True, files={"README.md": b"", "pytorch_model.bin": b"mine"})
    with pytest.raises(HubError, match=r"holds something else: pytorch_model\.bin"):
        headstart.push(run, "me/other")
    assert len(there.history) == 1


@pytest.mark.parametrize(("route", "code"), [("/commit/", 400), ("/validate-yaml", 400), ("/commit/", 413)])
def test_any_other_refusal_is_one_line_and_changes_nothing(run: Path, hub: FakeHub, route: str, code: int) -> None:
    there = hub.repository("me/shapes", private=True)
    hub.refuse[route] = code
    with pytest.raises(HubError, match=r"the Hub refuses.*nothing was changed"):
        headstart.push(run, "me/shapes")
    assert len(there.history) == 1


def test_without_a_network_the_answer_comes_at_once(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"cannot be reached.*Check the network"):
        headstart.push(run, "me/shapes")
    with pytest.raises(HubError, match="cannot be reached"):
        headstart.load("hf-hub:me/shapes")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        headstart.push(run, "me/shapes")


def test_a_damaged_model_or_export_is_not_pushed(exported: Path, hub: FakeHub) -> None:
    with (exported / "exports/onnx-fp32/model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match=r"not the one that was certified.*Export the model again"):
        headstart.push(exported, "me/shapes")
    with (exported / "model/model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match="not as it was saved"):
        headstart.push(exported, "me/shapes")
    assert hub.asked == []


def test_what_is_not_there_or_no_model_of_ours_is_told(hub: FakeHub) -> None:
    with pytest.raises(HubError, match=r"no such repository|may not see it"):
        headstart.load("hf-hub:me/nothing")
    hub.repository("me/timm", files={"config.json": b"{}"})
    with pytest.raises(ModelError, match=r"no headstart model.*--source timm:hf-hub:me/timm"):
        headstart.load("hf-hub:me/timm")
    hub.repository("me/torn", files={"headstart.json": b"{"})
    with pytest.raises(ModelError, match="cannot be read"):
        headstart.load("hf-hub:me/torn")
    with pytest.raises(SettingsError, match="folder of this machine"):
        headstart.push("hf-hub:me/timm", "me/shapes")


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_command_line_lists_first_and_says_how_to_open_it(
    run: Path, hub: FakeHub, split_shapes: Path, capsys: Any
) -> None:
    assert cli.run(["push", str(run), "me/shapes", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown
    assert "would go to me/shapes (private)" in shown
    assert "## Licences" in shown
    assert cli.run(["push", str(run), "me/shapes"]) == 0
    shown = capsys.readouterr()
    assert "model.safetensors, " in shown.err
    assert "headstart predict hf-hub:me/shapes PICTURES" in shown.out
    assert cli.run(["push", str(run), "me/shapes", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["repository"] == "me/shapes"
    assert cli.run(["predict", "hf-hub:me/shapes", str(split_shapes / "test" / "bar"), "--json", "--quiet"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8
    assert cli.run(["push", str(run), "shapes"]) == 2
    assert capsys.readouterr().err.startswith("error: 'shapes' is no name of a repository")


def test_the_estimate_takes_the_users_own_figures(run: Path, hub: FakeHub, capsys: Any) -> None:
    words = ["push", str(run), "me/shapes", "--dry-run", "--watts", "5", "--carbon", "60"]
    assert cli.run(words) == 0
    shown = capsys.readouterr().out
    assert "at 5 W a core" in shown  # and, between the two, what a graphics card took
    assert ", and 60 g of CO2 a kWh." in shown
    with pytest.raises(SettingsError, match="must not be negative"):
        headstart.push(run, "me/shapes", watts=-1)
