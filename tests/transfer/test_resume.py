"""A run that was stopped anywhere and went on ends with the bits of one that was never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rigs import Rig, coloured
from torch import nn

from headstart import files
from headstart.errors import Interrupted, RunError
from headstart.sources import open_source
from headstart.transfer import checkpoint, tuning
from headstart.transfer.interrupt import Stop
from headstart.transfer.steps import Samples

Make = Callable[..., Rig]

HARD: dict[str, Any] = {
    "epochs": 3, "n": 18, "batch_size": 5, "mixup": 0.3, "ema": 0.9, "label_smoothing": 0.1, "augment": True,
    "vflip": True, "accumulate": 2, "norm_stats": "updated", "patience": 9, "lr": "2e-3",
}  # fmt: skip


def dropping() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


class StopAt(Stop):
    """Asks to stop when `code` is looked at for the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after
        super().__init__()

    @property  # type: ignore[override]
    def code(self) -> int | None:
        self.left -= 1
        return 143 if self.left < 0 else None

    @code.setter
    def code(self, value: int | None) -> None:
        """Only the counter decides."""


def outcome(made: Rig) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], np.ndarray]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in made.trainer.result.history]
    return made.state(), rows, made.trainer.predict(made.val.items)[0]


def assert_same(one: Any, two: Any) -> None:
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    assert [name for name in one[0] if not torch.equal(one[0][name], two[0][name])] == []
    assert np.array_equal(one[2], two[2])


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


def run_to_the_end(rig: Make, folder: Path, first: int, **options: Any) -> tuple[Rig, int]:
    """Stop after `first` looks at the signal, go on, stop again a little later each time; returns the finished rig."""
    stops, after = 0, first
    while True:
        made = rig(head=dropping(), folder=folder, stop=StopAt(after), **{**HARD, **options})
        try:
            made.fit()
        except (Interrupted, KeyboardInterrupt):  # the latter: heard after the last step was saved
            stops, after = stops + 1, after + 5
        else:
            return made, stops


@pytest.mark.parametrize("first", [1, 4, 7, 11, 13])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd", "strategy": "partial", "train_last": 2, "norm_stats": "frozen"}],
    ids=["adamw", "sgd"],
)
def test_weights_history_and_predictions_do_not_know_of_interruptions(
    rig: Make, tmp_path: Path, first: int, options: dict[str, Any], uninterrupted: dict[str, Any]
) -> None:
    key = str(options)
    if key not in uninterrupted:
        whole = rig(head=dropping(), **{**HARD, **options})
        frozen = whole.state()
        whole.fit()
        uninterrupted[key] = outcome(whole)
        kept = {f"source.network.{name}" for name in whole.trainer.frozen.entries}
        assert all(torch.equal(frozen[name], whole.state()[name]) for name in kept)
    with pytest.raises(Interrupted, match=f"headstart resume {tmp_path}") as caught:
        rig(head=dropping(), folder=tmp_path, stop=StopAt(first), **{**HARD, **options}).fit()
    assert caught.value.exit_code == 143
    made, stops = run_to_the_end(rig, tmp_path, 4, **options)
    assert stops >= 1
    assert_same(outcome(made), uninterrupted[key])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["val_loss"] for line in lines] == [row["val_loss"] for row in uninterrupted[key][1]]
    assert made.trainer.frozen.check() is None  # type: ignore[func-returns-value]


def test_a_state_saved_within_an_epoch_by_the_clock_goes_on_to_the_same_bits(
    rig: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_SAVE_SECONDS", 0.0)
    whole = rig(head=dropping(), **HARD)
    whole.fit()
    made = rig(head=dropping(), folder=tmp_path, **HARD)
    steps, left = made.trainer._step, [6]

    def killed(*args: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError  # as abrupt as a kill: nothing is saved on the way out
        steps(*args, **more)

    made.trainer._step = killed  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        made.fit()
    saved = json.loads(max(tmp_path.rglob("state.json")).read_text())["at"]
    assert (saved["epoch"], saved["step"]) == (2, 2)
    again = rig(head=dropping(), folder=tmp_path, **HARD)
    again.fit()
    assert_same(outcome(again), outcome(whole))


def test_a_state_is_not_saved_by_the_clock_more_often_than_asked(rig: Make, tmp_path: Path) -> None:
    made = rig(folder=tmp_path, epochs=2)
    made.fit()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "000001-epoch-0002-step-000000", "000002-epoch-0003-step-000000",
    ]  # fmt: skip


def test_a_signal_within_validation_is_heard_there_and_saves_the_trained_epoch(rig: Make, tmp_path: Path) -> None:
    stop = Stop()
    made = rig(folder=tmp_path, stop=stop, epochs=2, ema=0.5)
    judge = made.trainer._judge

    def judged(val: Samples) -> Any:
        if made.trainer.result.history:
            stop.code = 130
        return judge(val)

    made.trainer._judge = judged  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        made.fit()
    (saved,) = tmp_path.rglob("state.json")
    at = json.loads(saved.read_text())["at"]
    assert (at["epoch"], at["step"]) == (1, 3)
    again, whole = rig(folder=tmp_path, epochs=2, ema=0.5), rig(epochs=2, ema=0.5)
    again.fit()
    whole.fit()
    assert_same(outcome(again), outcome(whole))


def test_without_a_folder_a_signal_ends_the_run_too(rig: Make) -> None:
    made = rig(stop=StopAt(3))
    with pytest.raises(Interrupted) as caught:
        made.fit()
    assert caught.value.exit_code == 143


def finished(rig: Make, folder: Path, **options: Any) -> Rig:
    made = rig(folder=folder, **options)
    made.fit()
    return made


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    rig: Make, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    whole = finished(rig, tmp_path, epochs=3)
    newest = max((tmp_path / "checkpoints").iterdir())
    damage(newest / "state.safetensors")
    again = finished(rig, tmp_path, epochs=3)
    assert len(again.reporter.notes) == 1
    assert newest.name in again.reporter.notes[0]
    assert "the one before is used" in again.reporter.notes[0]
    assert_same(outcome(again), outcome(whole))


def test_with_every_checkpoint_damaged_the_run_begins_anew_and_says_so(rig: Make, tmp_path: Path) -> None:
    whole = finished(rig, tmp_path)
    for path in tmp_path.rglob("state.safetensors"):
        path.write_bytes(b"")
    again = finished(rig, tmp_path)
    assert len(again.reporter.notes) == 2
    assert_same(outcome(again), outcome(whole))


def shifted(samples: Samples) -> Samples:
    return Samples(samples.items, np.roll(samples.labels, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"n": 17}, {"train": shifted(coloured(18))}, {"val": coloured(8, first=1000)}, {"lr": "1e-4"}, {"seed": 1},
        {"mixup": 0.1}, {"precision": "bf16"}, {"epochs": 3}, {"strategy": "partial", "train_last": 1},
        {"train": Samples(coloured(18).items, coloured(18).labels, ("0" * 64,) * 18)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_data_or_another_plan_is_refused_at_resume(rig: Make, tmp_path: Path, change: dict[str, Any]) -> None:
    finished(rig, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="not what the checkpoint was trained with"):
        finished(rig, tmp_path, **change)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_other_weights_or_preprocessing_are_refused_at_resume(rig: Make, tmp_path: Path, toy: Any) -> None:
    finished(rig, tmp_path)
    for other in (toy.fresh(3), open_source("toy", image_size=48)):
        with pytest.raises(RunError):
            finished(rig, tmp_path, source=other)


def test_another_number_of_threads_is_told(rig: Make, tmp_path: Path) -> None:
    finished(rig, tmp_path)
    path = max(tmp_path.rglob("state.json"))
    facts = files.read_json(path)
    del facts["own"]
    files.write_json(path, {**facts, "machine": {**facts["machine"], "threads": 99}})
    again = finished(rig, tmp_path)
    assert "'threads': 99" in again.trainer.result.notes[0]


def test_a_loss_that_was_never_finite_survives_a_resume(rig: Make, tmp_path: Path) -> None:
    blank = Samples((), np.empty(0, np.int64))
    made = rig(folder=tmp_path, val=blank, epochs=1)
    made.fit()
    again = rig(folder=tmp_path, val=blank, epochs=1)
    again.fit()
    assert again.trainer.best_loss == float("inf")


# --- the checkpoints themselves -----------------------------------------------------------------------------------


def put(folder: Path, value: float) -> Path:
    return checkpoint.save(folder, "x", tensors={"a": torch.tensor([value])}, facts={"value": value})


def latest(folder: Path) -> float | None:
    found, _ = checkpoint.load_latest(folder)
    return None if found is None else float(found[0]["a"])


def test_two_checkpoints_are_kept_and_rests_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / "000009-torn").mkdir()
    (tmp_path / "000009-torn" / "state.safetensors").write_bytes(b"half")
    places = [put(tmp_path, value) for value in (1.0, 2.0, 3.0)]
    assert sorted(tmp_path.iterdir()) == places[1:]
    assert latest(tmp_path) == 3.0


@pytest.mark.parametrize("call", range(6))
def test_a_save_that_fails_anywhere_leaves_an_older_or_a_newer_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    put(tmp_path, 1.0)
    put(tmp_path, 2.0)
    left = [call]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt  # the process ends here
            return real(*args, **more)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("os.fsync", "pathlib.Path.replace", "shutil.rmtree"):
            module, _, attribute = name.rpartition(".")
            import importlib

            owner = Path if module == "pathlib.Path" else importlib.import_module(module)
            patch.setattr(owner, attribute, counted(getattr(owner, attribute)))
        try:
            put(tmp_path, 3.0)
            done = True
        except KeyboardInterrupt:
            done = False
    assert latest(tmp_path) in ((3.0,) if done else (2.0, 3.0))
    put(tmp_path, 4.0)
    assert latest(tmp_path) == 4.0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"number": "x", "sha256": ""}', '{"number": 9}'])
def test_a_torn_or_foreign_json_file_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    put(tmp_path, 1.0)
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / "state.json").write_text(text)
    assert latest(tmp_path) == 1.0


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "none") == (None, {})


@pytest.mark.parametrize("kind", ["adamw", "sgd", "plain"])
def test_an_optimiser_goes_on_as_if_never_saved_also_with_channels_last_weights(kind: str) -> None:
    def made() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kinds = {
            "adamw": lambda: torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True),
            "sgd": lambda: torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True),
            "plain": lambda: torch.optim.SGD(layer.parameters(), lr=0.1, fused=True),
        }
        return layer, kinds[kind]()

    def step(layer: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        layer(torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = made()
    step(layer, optimizer, 1)
    flat = {k: v.contiguous().clone() for k, v in checkpoint.flatten_optimizer(optimizer).items()}
    other, fresh = made()
    other.load_state_dict(layer.state_dict())
    checkpoint.restore_optimizer(fresh, flat)
    step(layer, optimizer, 2)
    step(other, fresh, 2)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)  # type: ignore[arg-type]


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    checkpoint.save(tmp_path, "x", tensors={"a": tied, "b": tied}, facts={})
    found, _ = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert torch.equal(found[0]["a"], found[0]["b"])
