"""H of the catalogue: numbers that are not finite, absurd rates, too little memory, nothing to learn from."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _numbers import (
    all_finite,
    break_loss,
    finite_checkpoints,
    infinite_gradient,
    narrow,
    not_a_number,
    read,
    write_many,
)
from figures import record
from torch import Tensor

import headstart
from headstart import cli
from headstart.judge.scoring import score
from headstart.records import plain
from headstart.sources.base import Source
from headstart.transfer.tuning import Trainer
from noting import Noting
from toydata import CLASSES, write_shapes

TUNED: dict[str, Any] = {
    "source": "toy", "strategy": "full", "epochs": 3, "batch_size": 8, "lr": 1e-3, "precision": "fp32", "workers": 0,
    "interpolate": False,
}  # fmt: skip
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


def flags(options: dict[str, Any]) -> list[str]:
    """The options as words of a command."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends with exit code 2: one line, no traceback."""
    capsys.readouterr()
    assert cli.run(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.out + told.err
    return told.err


# --- H1: NaN and infinity ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_every_epoch_is_saved")
@pytest.mark.parametrize("how", [not_a_number, infinite_gradient])
def test_h1_a_bad_step_is_dropped_the_rate_lowered_and_both_are_in_the_report(
    how: Callable[[Tensor], Tensor], untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headstart.fit(untouched, tmp_path / "usual", **TUNED)
    broken = break_loss(monkeypatch, how, lambda epoch, step: (epoch, step) == (2, 0))
    run = headstart.fit(untouched, tmp_path / "run", **TUNED).run
    assert broken == [(2, 0)]
    (told,) = [note for note in run["notes"] if "dropped" in note]
    assert told.startswith("1 step without a finite loss dropped")
    assert "dropped" in (tmp_path / "run" / "report.html").read_text("utf-8")
    first, second = ([json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("usual", "run"))
    assert first[1]["val_loss"] == second[1]["val_loss"]
    assert second[2]["lr"] < first[2]["lr"]
    assert all_finite(run["scores"])
    assert finite_checkpoints(tmp_path / "run") > 0


@pytest.mark.usefixtures("_every_epoch_is_saved")
def test_h1_a_loss_that_stays_bad_ends_the_training_with_the_best_weights_so_far(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TUNED, "epochs": 8, "lr": 3e-3, "probe_first": False}  # so that the first epoch is better than none
    broken = break_loss(monkeypatch, not_a_number, lambda epoch, step: epoch >= 2)
    run = headstart.fit(untouched, tmp_path / "run", **options).run
    assert len(broken) == 5
    assert any("5 steps in a row" in note and "epoch" in note for note in run["notes"])
    assert "weights of epoch 1 of 3 kept" in run["notes"]
    assert all_finite(run["scores"])
    assert finite_checkpoints(tmp_path / "run") > 0
    assert headstart.load(tmp_path / "run").classes == CLASSES


@pytest.mark.usefixtures("_every_epoch_is_saved")
def test_h1_weights_that_become_nan_are_never_kept(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Trainer._end_epoch

    def end_epoch(self: Trainer, at: Any, val: Any) -> Any:
        if at.epoch == 2:
            with torch.no_grad():
                next(self.net.source.network.parameters()).fill_(float("nan"))
        return usual(self, at, val)

    monkeypatch.setattr(Trainer, "_end_epoch", end_epoch)
    run = headstart.fit(untouched, tmp_path / "run", **{**TUNED, "lr": 3e-3, "epochs": 8, "probe_first": False}).run
    assert any("5 steps in a row" in note for note in run["notes"])
    assert all_finite(run["scores"])
    assert finite_checkpoints(tmp_path / "run") > 0


def test_h1_a_picture_of_nan_is_an_error_entry_and_its_neighbours_are_answered(frozen_run: Path) -> None:
    bad = np.full((32, 32, 3), np.nan, np.float32)
    good = np.full((32, 32, 3), 90, np.uint8)
    answers = headstart.load(frozen_run).predict([good, bad, good])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert answers[0].probabilities == answers[2].probabilities


# --- H2: absurd rates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["1e20", "1e300"])
@pytest.mark.parametrize("batch_size", [8, 64], ids=["several steps", "one step an epoch"])
def test_h2_an_absurd_rate_is_one_line_with_advice_and_leaves_no_bad_checkpoint(
    rate: str, batch_size: int, untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**TUNED, "lr": rate, "batch_size": batch_size, "epochs": 9, "patience": 9, "optimizer": "sgd"}
    told = refused(["fit", str(untouched), "--out", str(tmp_path / "run"), *flags(options), "--quiet"], capsys)
    assert "Lower --lr" in told
    assert "--lr find" in told
    assert not (tmp_path / "run" / "run.json").exists()
    finite_checkpoints(tmp_path / "run")


# --- H3: memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FULL, ids=["gpu", "cpu"])
def test_h3_a_step_that_finds_no_memory_goes_on_in_micro_batches_to_the_weights_of_accumulation(
    error: Exception, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TUNED, "batch_size": 16, "epochs": 2}
    wanted = headstart.fit(untouched, **options, accumulate=4).model.net.state_dict()
    seen = narrow(monkeypatch, 4, error, training=True)
    found = headstart.fit(untouched, tmp_path / "run", **options)
    assert seen == [12, 6]  # once for the whole run: 23 training images are batches of 12 and 11
    state = found.model.net.state_dict()
    assert [name for name, value in wanted.items() if not torch.equal(value, state[name])] == []
    told = [note for note in found.run["notes"] if "memory ran out" in note]
    assert [note.split("micro-batches of ")[1].split(",")[0] for note in told] == ["6", "3"]
    assert all("steps of 16 images" in note for note in told)


@pytest.mark.parametrize("strategy", ["frozen", "full"])
def test_h3_features_and_answers_that_find_no_memory_are_computed_in_smaller_batches(
    strategy: str, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TUNED, "strategy": strategy, "epochs": 1, "cache": False}
    usual = headstart.fit(untouched, tmp_path / "usual", **options)
    files = sorted(untouched.rglob("*.png"))
    wanted = headstart.load(tmp_path / "usual").predict_proba(files)
    seen, listener = narrow(monkeypatch, 3, FULL[0], training=False), Noting()
    found = headstart.fit(untouched, tmp_path / "run", **options)
    told = " ".join(found.run["notes"])
    assert "memory ran out: features are computed for 2 images at a time" in told
    assert ("answers are computed for" in told) == (strategy == "full")
    assert max(seen) > 16
    assert found.run["scores"]["test"]["accuracy"] == usual.run["scores"]["test"]["accuracy"]
    answers = headstart.load(tmp_path / "usual").predict_proba(files, reporter=listener)
    assert np.abs(answers - wanted).max() < 1e-6
    assert (answers.argmax(1) == wanted.argmax(1)).all()
    assert listener.notes == []  # a saved model computes each image alone on the processor


@pytest.mark.parametrize("strategy", ["frozen", "full"])
def test_h3_where_not_one_image_fits_that_is_one_line_and_nothing_is_left(
    strategy: str, untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch, 0, FULL[1], training=strategy == "full")
    words = ["fit", str(untouched), "--out", str(tmp_path / "run"), *flags({**TUNED, "strategy": strategy})]
    told = refused([*words, "--quiet"], capsys)
    assert "memory ran out" in told
    assert "--image-size" in told
    assert not (tmp_path / "run").exists()


# --- H4: nothing to learn from, one of a kind, very many kinds -------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "svm", "ridge", "mlp", "knn"])
def test_h4_features_without_variance_give_finite_scores(
    head: str, untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "forward", lambda self, images, pooling="native": images.new_full((len(images), 64), 7))
    run = headstart.fit(untouched, source="toy", strategy="frozen", head=head, cache=False).run
    assert all_finite(run["scores"])
    assert run["scores"]["test"]["accuracy"] <= 0.5
    assert run["scores"]["test"]["log_loss"] < 2 * np.log(3)


def test_h4_a_last_batch_of_one_image_trains_a_network_with_batchnorm(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", splits={"train": 3, "val": 2, "test": 2})
    options = {**TUNED, "source": "random:resnet10t", "image_size": 32, "batch_size": 4, "epochs": 1}
    run = headstart.fit(data, **options).run  # nine training images: the last map of this network is one pixel
    assert run["data"]["splits"]["train"]["n"] % 4 == 1
    assert all_finite(run["scores"])
    assert all(point["val_loss"] is not None for point in run["curves"]["points"])


def test_h4_one_item_a_class_without_splits_is_refused_with_two_ways_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B2 with every class: there is nothing to test on."""
    data = write_shapes(tmp_path / "data", per_class=1)
    told = refused(["fit", str(data), "--out", str(tmp_path / "run"), "--source", "toy", "--quiet"], capsys)
    assert "Add pictures to the classes, merge rare classes, or give a test split of your own" in told
    assert not (tmp_path / "run").exists()


def many_classes(folder: Path, classes: int) -> dict[str, Any]:
    """Fit and judge one picture a class and split, through the command; the figures of the run folder."""
    data, run = write_many(folder / "data", classes), folder / "run"
    started = time.perf_counter()
    words = ["fit", str(data), "--out", str(run), "--source", "toy", "--strategy", "frozen", "--head", "linear"]
    assert cli.run([*words, "--quiet"]) == 0
    seconds = time.perf_counter() - started
    found = read(run)
    assert len(found["data"]["classes"]) == classes
    assert all_finite(found["scores"])
    assert found["scores"]["val"]["n"] == found["scores"]["test"]["n"] == classes
    sizes = {path.name: path.stat().st_size for path in run.iterdir() if path.is_file()}
    answer = headstart.predict(run, data / "test" / "class-00007" / "one.png", top_k=3)
    assert len(answer[0]["probabilities"]) == 3
    return {"classes": classes, "seconds": round(seconds, 1), "bytes": sizes}


def small(sizes: dict[str, int]) -> bool:
    """Whether a page can be sent and read."""
    return sizes["report.html"] < 5_000_000 and sizes["report.md"] < 1_000_000


def test_h4_many_classes_of_one_image_give_finite_scores_and_small_files(tmp_path: Path) -> None:
    sizes = many_classes(tmp_path, 320)["bytes"]
    assert small(sizes)
    assert sizes["run.json"] < 1_000_000  # no table of 320 x 320


def test_h4_ten_thousand_classes_with_a_few_images_are_judged_in_finite_numbers() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random((40, 10_000)) ** 9
    chances[3] = np.nan
    found = score(np.arange(40) * 250, chances, classes=[f"c{n}" for n in range(10_000)])
    assert all_finite(plain(found))
    assert found.confusion == ()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_h4_three_thousand_classes_of_one_image(tmp_path: Path) -> None:
    found = many_classes(tmp_path, 3_000)
    record("h4_many_classes", **found)
    assert small(found["bytes"])
    assert found["bytes"]["run.json"] < 5_000_000
    assert found["bytes"]["predictions.csv"] < 1_000_000  # not 3,000 columns
    shutil.rmtree(tmp_path / "data")
