"""What it costs to be able to go on: how many states are saved, how large they are, and their share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from figures import record

import headstart
from headstart.transfer import checkpoint, tuning
from toydata import write_shapes

TUNED: dict[str, Any] = {"source": "toy", "strategy": "full", "batch_size": 8, "cache": False, "patience": 99}


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """(seconds, bytes) of every save from here on."""
    made: list[tuple[float, int]] = []
    real: Callable[..., Path] = checkpoint.save

    def timed(*args: Any, **options: Any) -> Path:
        began = time.monotonic()
        place = real(*args, **options)
        made.append((time.monotonic() - began, sum(path.stat().st_size for path in place.iterdir())))
        return place

    monkeypatch.setattr(checkpoint, "save", timed)
    return made


def test_one_state_an_epoch_is_saved_of_at_most_four_times_what_is_trained_and_two_are_kept(
    untouched: Path, tmp_path: Path, saves: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, the best weights, and two moments of the optimiser for each; the rest is small."""
    monkeypatch.setattr(tuning, "_SAVE_SHARE", float("inf"))
    result = headstart.fit(untouched, tmp_path / "run", epochs=3, **TUNED)
    assert len(saves) == 3
    state = sum(value.numel() * value.element_size() for value in result.model.net.state_dict().values())
    assert max(size for _, size in saves) < 4 * state + 50_000
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def test_a_state_that_is_slow_to_save_is_saved_when_it_has_earned_its_time(
    untouched: Path, tmp_path: Path, saves: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still but for saves: after a first one of a second, fifty pass until the next."""
    now = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        perf_counter = staticmethod(time.perf_counter)

    step, save = tuning.Trainer._step, checkpoint.save

    def long_step(*args: Any, **options: Any) -> None:
        now[0] += 1.0
        step(*args, **options)

    def long_save(*args: Any, **options: Any) -> Path:
        now[0] += 1.0
        return save(*args, **options)

    monkeypatch.setattr(tuning, "time", Clock)
    monkeypatch.setattr(tuning.Trainer, "_step", long_step)
    monkeypatch.setattr(checkpoint, "save", long_save)
    headstart.fit(untouched, tmp_path / "run", epochs=40, **TUNED)
    assert len(saves) >= 2
    assert len(saves) <= 1 + 0.02 * now[0]


def share_of_saving(folder: Path, data: Path, saves: list[tuple[float, int]], **options: Any) -> dict[str, Any]:
    """Train, and say which share of the time from the first to the last epoch went into saving."""
    began = time.monotonic()
    run = headstart.fit(data, folder, **options).run
    total, training = time.monotonic() - began, run["seconds"]["train"]
    seconds = [cost for cost, _ in saves]
    return {
        "saves": len(saves), "megabytes": round(max(size for _, size in saves) / 1e6, 2),
        "seconds_a_save": round(max(seconds), 3), "share_of_training": round(sum(seconds) / training, 4),
        "share_of_run": round(sum(seconds) / total, 4), "share_at_one_a_minute": round(max(seconds) / 60, 4),
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", ["toy", "random:resnet18"])
def test_the_share_of_the_time_that_saving_takes(source: str, tmp_path: Path, saves: list[tuple[float, int]]) -> None:
    """Under 2 %, synced to disk; a large network waits until a save has earned its time, the first one too."""
    data = write_shapes(tmp_path / "data", per_class=40)
    size, epochs = (None, 20) if source == "toy" else (64, 60)
    options = {**TUNED, "source": source, "epochs": epochs, "image_size": size}
    told = share_of_saving(tmp_path / "run", data, saves, **options)
    record("saving", source=source, **told)
    assert told["share_of_run"] < 0.02
