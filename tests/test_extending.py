"""The verb extend: new pictures and new classes without the old pictures, what it equals and what it measures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import cli, files
from headstart.data.audit import audit
from headstart.data.augment import View
from headstart.data.facts import load_data
from headstart.errors import DataError, ModelError, OutputError, RunError
from headstart.judge.calibration import softmax
from headstart.sealed import read_sealed, run_of
from headstart.ship.learned import STATISTICS, read_learned
from headstart.ship.model import Model, load
from headstart.sources import open_source
from headstart.transfer.engine import pick_device
from headstart.transfer.features import Pass, embed
from headstart.transfer.heads import fit_head
from toydata import CLASSES, folder_hash, picture

OLD = ("bar", "disc")
FROZEN: dict[str, Any] = {"source": "toy", "strategy": "frozen", "engine": "torch", "views": 0, "folds": 2}


def drawn(folder: Path, kinds: Sequence[str], numbers: Sequence[int]) -> Path:
    """Pictures in FOLDER/CLASS/NNN.png."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            picture(kind, number).save(folder / kind / f"{number:03d}.png")
    return folder


def old_data(folder: Path) -> Path:
    """Two classes: twelve, four and eight of each."""
    for split, numbers in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 24))):
        drawn(folder / split, OLD, numbers)
    return folder


def new_data(folder: Path) -> Path:
    """Twelve pictures of a new class and five more of an old one."""
    drawn(folder, ["square"], range(12))
    return drawn(folder, ["disc"], range(30, 35))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with the data `old`, a run on them and what it kept, made once for the same options."""
    known: dict[str, Path] = {}

    def one(**options: Any) -> Path:
        name = repr(sorted(options.items()))
        if name not in known:
            known[name] = folder = tmp_path_factory.mktemp("made")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HEADSTART_HOME", str(folder / "home"))
                headstart.fit(old_data(folder / "old"), folder / "run", **{**FROZEN, **options})
        return known[name]

    return one


@pytest.fixture
def finished(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run on two classes at tmp_path / "run", whose data stand at tmp_path / "old"."""

    def one(tmp_path: Path, **options: Any) -> Path:
        for name in ("old", "run", "home"):
            shutil.copytree(made(**options) / name, tmp_path / name)
        monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "home"))
        record = files.read_json(tmp_path / "run" / "run.json")
        record["data"]["path"] = str(tmp_path / "old")
        files.write_json(tmp_path / "run" / "run.json", record)
        return tmp_path / "run"

    return one


def retrained(run: Path, folders: Sequence[Path], views: Sequence[View], *, splits: Sequence[str]) -> tuple[Any, ...]:
    """The head of the run's kind and strength fitted on all pictures of some folders, its classes, and its features."""
    told = files.read_json(run / "model" / "headstart.json")
    classes, tables, labels = list(told["classes"]), [[] for _ in views], list[int]()
    for folder in folders:
        dataset, facts = audit(load_data(folder, fewest=1), fewest=1)
        classes += [name for name in dataset.classes if name not in classes]
        items = [item for item in dataset.items if item.split in splits]
        labels += [classes.index(dataset.classes[item.label or 0]) for item in items]
        for table, view in zip(tables, views, strict=True):
            how = Pass(view=view, engine="torch", device=pick_device("auto"))  # as the run had it
            table.append(embed(open_source("toy"), items, hashes=facts.hashes, how=how).array)
    X, y = np.concatenate([np.concatenate(table) for table in tables]), np.tile(labels, len(views))
    chosen, kind = told["head"]["chosen"], told["head"]["kind"]
    return fit_head(kind, X, y, n_classes=len(classes), fixed=chosen), tuple(classes), X


def told_apart(model: Model, head: Any, X: np.ndarray) -> float:
    """The largest difference of probabilities between a model and a head with the model's temperature."""
    calibration = model.facts.get("calibration") or {"temperature": 1.0, "folded": True}
    wanted = softmax(head.logits(X) / calibration["temperature"])
    found = softmax(model.head.logits(X) / model.temperature)
    return float(np.abs(found - wanted).max())


# --- what it equals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [0, 2])
def test_ridge_without_any_old_picture_or_feature_is_the_fit_on_everything(
    views: int, tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = finished(tmp_path, head="ridge", views=views), new_data(tmp_path / "new")
    before, learned = folder_hash(run), read_learned(run / "model")
    assert learned is not None
    kinds = (View(), *learned.views)
    head, classes, X = retrained(run, [tmp_path / "old", new], kinds, splits=("train", "val", ""))
    shutil.rmtree(tmp_path / "old")
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "empty"))
    told = headstart.extend(run, new, out=tmp_path / "more")
    model = load(tmp_path / "more")
    assert model.classes == classes == (*OLD, "square")
    size = float(np.abs(head.arrays["weight"]).max())
    divisor = (model.facts.get("calibration") or {"temperature": 1.0})["temperature"]
    assert np.abs(model.head.arrays["weight"] * divisor - head.arrays["weight"]).max() <= 1e-6 * size
    assert told_apart(model, head, X) <= 1e-6
    assert (told["way"], told["exact"]) == ("statistics", True)
    assert told["old"] == {"pictures": 32, "looked_at_again": 0}
    assert told["forgetting"]["n"] == 0
    assert "no longer at" in told["forgetting"]["why"]
    assert told["data"] == [str(tmp_path / "old"), str(new)]  # the old ones may come back
    assert folder_hash(run) == before


@pytest.mark.parametrize("head", ["linear", "svm", "mlp", "knn", "ridge"])
def test_other_heads_are_fitted_on_kept_features_when_the_pictures_are_gone(
    head: str, tmp_path: Path, finished: Callable[..., Path]
) -> None:
    run, new = finished(tmp_path, head=head), new_data(tmp_path / "new")
    if head == "ridge":
        _as_earlier_releases(run, list_too=False)
    wanted, classes, X = retrained(run, [tmp_path / "old", new], [View()], splits=("train", "val", ""))
    shutil.rmtree(tmp_path / "old")
    told = headstart.extend(run, new, out=tmp_path / "more")
    model = load(tmp_path / "more")
    assert model.classes == classes
    assert told_apart(model, wanted, X) <= 1e-6
    assert (told["way"], told["exact"], told["old"]["looked_at_again"]) == ("rows", True, 0)
    assert told["forgetting"]["n"] == told["forgetting"]["of"] == 16
    assert (tmp_path / "more" / "model" / STATISTICS).is_file() == (head == "ridge")


@pytest.mark.parametrize(("head", "near"), [("ridge", 1e-6), ("linear", 1e-4), ("knn", 1e-6)])
def test_extending_twice_is_extending_once_with_both(
    head: str, near: float, tmp_path: Path, finished: Callable[..., Path]
) -> None:
    run = finished(tmp_path, head=head)
    first, second = drawn(tmp_path / "a", ["square"], range(8)), drawn(tmp_path / "b", ["square", "bar"], range(40, 46))
    shutil.copytree(first, tmp_path / "both")
    shutil.copytree(second, tmp_path / "both", dirs_exist_ok=True)
    headstart.extend(run, first, out=tmp_path / "one")
    headstart.extend(tmp_path / "one", second, out=tmp_path / "two")
    headstart.extend(run, tmp_path / "both", out=tmp_path / "once")
    twice, once = load(tmp_path / "two"), load(tmp_path / "once")
    pictures = [picture(kind, n) for kind in CLASSES for n in range(60, 70)]
    assert twice.classes == once.classes
    assert np.abs(twice.predict_proba(pictures) - once.predict_proba(pictures)).max() <= near
    assert [entry["pictures"] for entry in twice.facts["extended"]] == [8, 12]
    told = files.read_json(tmp_path / "two" / "extended.json")
    assert told["data"] == [str(place) for place in (tmp_path / "old", first, second)]
    assert read_sealed(tmp_path / "two").held_out
    assert len(read_sealed(tmp_path / "two").items) == 16
    again = headstart.extend(tmp_path / "two", tmp_path / "old" / "test", out=tmp_path / "three")
    assert again["new"]["pictures"] == 16
    assert again["forgetting"]["n"] == 0


def test_features_that_are_gone_are_computed_from_the_old_pictures(
    tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = finished(tmp_path, head="linear"), new_data(tmp_path / "new")
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "empty"))
    shutil.move(tmp_path / "old", tmp_path / "moved")
    with pytest.raises(DataError, match=r"32 of the 32 training pictures .* no longer at .*--old-data"):
        headstart.extend(run, new, out=tmp_path / "more")
    assert not (tmp_path / "more").exists()
    shutil.move(tmp_path / "moved" / "train" / "bar" / "000.png", tmp_path / "away.png")
    with pytest.raises(
        DataError, match="1 of the 32 training pictures are not kept as features, and they are not in these"
    ):
        headstart.extend(run, new, out=tmp_path / "more", old_data=tmp_path / "moved")
    shutil.move(tmp_path / "away.png", tmp_path / "moved" / "train" / "bar" / "renamed.png")
    told = headstart.extend(run, new, out=tmp_path / "more", old_data=tmp_path / "moved")
    assert told["old"]["looked_at_again"] in (1, 32)  # the others were kept by the attempt before
    wanted, _, X = retrained(run, [tmp_path / "moved", new], [View()], splits=("train", "val", ""))
    assert told_apart(load(tmp_path / "more"), wanted, X) <= 1e-6


def test_old_pictures_may_lie_in_several_places(
    tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = finished(tmp_path, head="linear"), new_data(tmp_path / "new")
    headstart.extend(run, new, out=tmp_path / "one")
    shutil.move(tmp_path / "old", tmp_path / "moved")
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "empty"))
    more = drawn(tmp_path / "more", ["square"], range(40, 44))
    with pytest.raises(DataError, match="32 of the 49 training pictures are not kept"):
        headstart.extend(tmp_path / "one", more, out=tmp_path / "two")
    told = headstart.extend(tmp_path / "one", more, out=tmp_path / "two", old_data=tmp_path / "moved")
    assert told["way"] == "rows"
    assert told["forgetting"]["n"] == 16


def test_knn_without_anything_old_adds_neighbours_and_says_that_it_is_not_exact(
    tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = finished(tmp_path, head="knn"), new_data(tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "empty"))
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert (told["way"], told["exact"]) == ("neighbours", False)
    assert any("centre" in line for line in told["limits"])
    model = load(tmp_path / "more")
    assert len(model.head.arrays["bank"]) == 32 + 17
    answers = model.predict([new / "square" / f"{n:03d}.png" for n in range(12)])
    assert sum(answer.label == "square" for answer in answers) >= 6


def test_a_trained_network_gets_a_new_head_and_says_so(
    tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"strategy": "scratch", "epochs": 2, "batch_size": 16}
    run, new = finished(tmp_path, **options), new_data(tmp_path / "new")
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert (told["way"], told["exact"], told["old"]["looked_at_again"]) == ("refitted", False, 32)
    assert any("has learned nothing of the new pictures" in line for line in told["limits"])
    old, model = load(run), load(tmp_path / "more")
    pixels = [picture(kind, 70) for kind in CLASSES]
    assert model.predict_proba(pixels).shape == (3, 3)
    for (name, a), (_, b) in zip(
        old.net.source.state_dict().items(), model.net.source.state_dict().items(), strict=True
    ):
        assert np.array_equal(a.numpy(), b.numpy()), name
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "empty"))
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(DataError, match="not kept as features, and the run's data are no longer"):
        headstart.extend(run, new, out=tmp_path / "again")


def _as_earlier_releases(run: Path, *, list_too: bool = True) -> None:
    """Take from a model what earlier releases did not write."""
    from headstart.ship.learned import LEARNED

    file = run / "model" / "headstart.json"
    told = files.read_json(file)
    for name in (STATISTICS, *([LEARNED] if list_too else [])):
        told["files"].pop(name, None)
        (run / "model" / name).unlink(missing_ok=True)
    text = files.json_text({**told, "sha256": "0" * 64})
    files.write_text(file, text.replace("0" * 64, files.hash_bytes(files.text_bytes(text))))


def test_a_model_of_an_earlier_release_is_extended_from_its_pictures(
    tmp_path: Path, finished: Callable[..., Path]
) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    wanted, _, X = retrained(run, [tmp_path / "old", new], [View()], splits=("train", "val", ""))
    _as_earlier_releases(run)
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert told["way"] == "rows"
    assert told["forgetting"]["n"] == 16
    assert told_apart(load(tmp_path / "more"), wanted, X) <= 1e-6
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(DataError, match="holds no list of the pictures"):
        headstart.extend(run, new, out=tmp_path / "again")
    on = headstart.extend(tmp_path / "more", drawn(tmp_path / "c", ["bar"], [80]), out=tmp_path / "on")
    assert on["way"] == "statistics"  # which the extension wrote


def test_a_pruned_model_is_extended_as_exactly(tmp_path: Path, finished: Callable[..., Path]) -> None:
    pytest.importorskip("torch_pruning")
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    small = Path(headstart.prune(run, features=0.5)["folder"])
    shutil.rmtree(tmp_path / "old")
    told = headstart.extend(small, new, out=tmp_path / "more")
    assert (told["way"], told["exact"]) == ("statistics", True)
    assert load(tmp_path / "more").predict(picture("square", 0))[0].label in CLASSES
    with pytest.raises(RunError, match="an extended model has no run to prune by"):
        headstart.prune(tmp_path / "more", features=0.5)


def test_what_tells_of_the_training_pictures_is_not_pushed(tmp_path: Path, finished: Callable[..., Path]) -> None:
    sent = headstart.push(finished(tmp_path, head="ridge"), "my-lab/shapes", dry_run=True)
    names = {entry["name"] for entry in sent["files"]}
    assert "head.safetensors" in names
    assert not names & {"learned.safetensors", "statistics.safetensors"}
    assert str(tmp_path) not in sent["card"]


# --- which pictures are learned -------------------------------------------------------------------------------------


def test_a_picture_counts_once_and_every_other_one_is_named(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    shutil.copy(tmp_path / "old" / "train" / "disc" / "003.png", new / "square" / "known.png")
    shutil.copy(new / "square" / "001.png", new / "square" / "twin.png")
    shutil.copy(new / "square" / "002.png", new / "disc" / "either.png")
    (new / "disc" / "torn.png").write_bytes(b"no picture")
    before = folder_hash(new)
    told = headstart.extend(run, new, out=tmp_path / "more")["new"]
    assert told["seen_before"] == ["square/known.png"]
    assert told["repeated"] == ["square/twin.png"]
    assert sorted(told["contradictory"]) == ["disc/either.png", "square/002.png"]
    assert [entry["file"] for entry in told["skipped"]] == ["disc/torn.png"]
    assert told["per_class"] == {"disc": 5, "square": 11}
    assert folder_hash(new) == before
    with pytest.raises(DataError, match=r"none of the \d+ pictures is new: 18 were seen"):
        headstart.extend(tmp_path / "more", new, out=tmp_path / "again")


def test_the_whole_data_may_be_given_again(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run = finished(tmp_path, head="ridge")
    drawn(tmp_path / "old" / "train", ["square"], range(5))
    drawn(tmp_path / "old" / "test", ["square"], range(60, 63))
    told = headstart.extend(run, tmp_path / "old", out=tmp_path / "more")
    assert (told["new"]["per_class"], len(told["new"]["seen_before"])) == ({"square": 5}, 32)
    assert (told["forgetting"]["n"], told["held_back"]["n"]) == (16, 19)
    learned = read_learned(tmp_path / "more" / "model")
    assert learned is not None
    assert len(learned.judged) == len(set(learned.judged.hashes)) == 19


def test_the_device_of_the_run_is_taken_where_there_is_one(
    tmp_path: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    learned = read_learned(run / "model")
    assert learned is not None
    model = load(run)
    model.learned = replace(learned, device="cuda")
    model.save(tmp_path / "gpu")
    told = headstart.extend(tmp_path / "gpu", new, out=tmp_path / "more", old_data=tmp_path / "old")
    assert told["way"] == "statistics"
    found = read_learned(tmp_path / "more" / "model")
    assert found is not None
    assert found.device == "cuda"


def test_one_picture_will_do(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run = finished(tmp_path, head="ridge")
    told = headstart.extend(run, drawn(tmp_path / "new", ["square"], [0]), out=tmp_path / "more")
    assert told["classes"] == {"before": list(OLD), "added": ["square"]}
    assert told["held_back"]["n"] == 0
    assert load(tmp_path / "more").predict(picture("square", 0))[0].label == "square"
    listed = headstart.extend(run, ([picture("disc", 50)], ["disc"]), out=tmp_path / "listed")
    assert listed["new"]["pictures"] == 1
    assert listed["command"] is None


def test_the_new_test_split_is_judged_and_never_learned(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run = finished(tmp_path, head="ridge")
    new = drawn(tmp_path / "new" / "train", ["square", "disc"], range(40, 43)).parent
    drawn(new / "test", ["square", "disc"], range(60, 64))
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert told["new"]["pictures"] == 6
    assert (told["held_back"]["kind"], told["held_back"]["n"]) == ("test split", 8)
    learned = read_learned(tmp_path / "more" / "model")
    assert learned is not None
    assert (len(learned.training), len(learned.judged)) == (32 + 6, 16 + 8)


def test_held_back_pictures_are_learned_in_the_end(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    a, b = (headstart.extend(run, new, out=tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    assert a["held_back"]["kind"] == "held back"
    assert a["held_back"]["per_class"].keys() == {"square"}  # of the others there are five
    assert 2 <= a["held_back"]["n"] <= 3
    models = [folder_hash(tmp_path / name / "model")["head.safetensors"] for name in ("a", "b")]
    assert models[0] == models[1]
    assert b["seed"] == 1
    again = headstart.extend(run, new, out=tmp_path / "c", seed=0)
    assert {**again, "folder": 0, "command": 0} == {**a, "folder": 0, "command": 0}
    assert folder_hash(tmp_path / "c" / "model") == folder_hash(tmp_path / "a" / "model")


# --- what it measures -----------------------------------------------------------------------------------------------


def test_forgetting_is_what_the_two_models_answer_on_the_sealed_pictures(
    tmp_path: Path, finished: Callable[..., Path]
) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    told = headstart.extend(run, new, out=tmp_path / "more")["forgetting"]
    sealed = read_sealed(run)
    root = tmp_path / "old"
    paths = [root / item.name for item in sealed.items]
    before, after = (load(place).predict_proba(paths).argmax(axis=1) for place in (run, tmp_path / "more"))
    assert told["n"] == 16
    assert told["accuracy_before"] == pytest.approx(float((before == sealed.labels).mean()))
    assert told["accuracy_after"] == pytest.approx(float((after == sealed.labels).mean()))
    assert told["called_new"] == int((after == 2).sum())
    low, high = told["interval_points"]
    assert low <= told["change_points"] <= high


def test_a_sealed_picture_that_is_given_as_new_is_learned_and_judged_no_more(
    tmp_path: Path, finished: Callable[..., Path]
) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    shutil.copy(tmp_path / "old" / "test" / "bar" / "016.png", new / "disc" / "sealed.png")
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert told["new"]["pictures"] == 18
    assert told["forgetting"]["n"] == 15


def test_unknown_still_works_and_lets_the_new_class_through(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run, new = finished(tmp_path, head="ridge", error_rate=0.4), new_data(tmp_path / "new")
    old = load(run)
    headstart.extend(run, new, out=tmp_path / "more")
    model = load(tmp_path / "more")
    assert old.reject is not None
    assert model.reject is not None
    assert model.reject.facts() == old.reject.facts()
    assert len(model.reject.arrays["linear"]) == len(old.reject.arrays["linear"]) + 1
    noise = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8) for n in range(6)]
    rows = model.predict([*(new / "square" / f"{n:03d}.png" for n in range(12)), *noise])
    labels = [row.label for row in rows]
    assert "square" in labels[:12]
    assert model.predict(new / "square" / "000.png")[0].best != "unknown"


# --- the folder -----------------------------------------------------------------------------------------------------


def test_every_verb_takes_an_extended_folder(tmp_path: Path, finished: Callable[..., Path]) -> None:
    pytest.importorskip("onnxruntime")
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    headstart.extend(run, new, out=tmp_path / "more")
    test = drawn(tmp_path / "test", CLASSES, range(60, 65))
    assert headstart.predict(tmp_path / "more", test / "square")[0]["probabilities"].keys() == set(CLASSES)
    measured = headstart.evaluate(tmp_path / "more", test)
    assert measured["n"] == 15
    assert measured["seen"] == 0
    assert headstart.evaluate(tmp_path / "more", new)["seen"] == 17
    found = headstart.explain(tmp_path / "more", [new / "square" / "000.png"], tmp_path / "why")
    assert found[0]["neighbours"][0]["label"] == "square"
    assert {row["label"] for row in headstart.explain(tmp_path / "more", test / "bar")[0]["neighbours"]} <= set(CLASSES)
    exported = headstart.export(tmp_path / "more")
    assert exported["data"]["held_out"] is True
    assert exported["n"] == 16
    assert (tmp_path / "more" / "exports" / "onnx-fp32" / "model.onnx").is_file()
    assert headstart.export(tmp_path / "more", data=test, out=tmp_path / "x")["n"] == 15
    shutil.rmtree(tmp_path / "old")
    assert headstart.export(tmp_path / "more", out=tmp_path / "y")["data"]["held_out"] is False
    shutil.rmtree(new)
    with pytest.raises(RunError, match="no longer at"):
        headstart.export(tmp_path / "more", out=tmp_path / "z")
    assert run_of(tmp_path / "more" / "model") == tmp_path / "more"


def test_the_folder_tells_what_was_done_and_the_model_carries_it(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    told = headstart.extend(run, new, out=tmp_path / "more")
    assert {entry.name for entry in (tmp_path / "more").iterdir()} - {".lock"} == {"model", "extended.json"}
    record = files.read_json(tmp_path / "more" / "extended.json")
    assert record == {name: part for name, part in told.items() if name != "folder"}
    assert record["model"]["sha256"] == files.read_json(run / "model" / "headstart.json")["sha256"]
    card = (tmp_path / "more" / "model" / "README.md").read_text("utf-8")
    assert card.startswith("# A classifier of 3 classes: bar, disc, square")
    assert "17 new pictures" in card
    model = load(tmp_path / "more")
    assert model.facts["scores"] == {"test": None}  # the old score was of another model
    assert model.plan.reasons[-1] == "extended by 17 pictures; new classes: square"


def test_mistakes_are_told_and_nothing_is_written(tmp_path: Path, finished: Callable[..., Path]) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="something stands there already"):
        headstart.extend(run, new, out=tmp_path / "taken")
    with pytest.raises(OutputError, match="something stands there already"):
        headstart.extend(run, new, out=run)
    with pytest.raises(OutputError, match="inside the data"):
        headstart.extend(run, new, out=new / "more")
    with pytest.raises(ModelError, match="no such folder"):
        headstart.extend(tmp_path / "nowhere", new, out=tmp_path / "more")
    with pytest.raises(DataError):
        headstart.extend(run, tmp_path / "nothing", out=tmp_path / "more")
    with pytest.raises(DataError):
        headstart.extend(run, new, out=tmp_path / "more", old_data=tmp_path / "nothing")
    assert not (tmp_path / "more").exists()
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"


def test_the_command_line_says_what_was_learned_and_what_it_cost(
    tmp_path: Path, finished: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = finished(tmp_path, head="ridge"), new_data(tmp_path / "new")
    capsys.readouterr()
    assert cli.run(["extend", str(run), str(new), "--out", str(tmp_path / "more")]) == 0
    said = capsys.readouterr().out
    assert "17 new pictures" in said
    assert "square (12)" in said
    assert "as if fitted on all pictures, to rounding" in said
    assert "16 held-out pictures" in said
    assert "alpha" in said
    assert cli.run(["extend", str(run), str(new), "--out", str(tmp_path / "json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"]["added"] == ["square"]
    assert told["command"].startswith("headstart extend ")
