"""Training from what is kept at the cut is the same training, without what lies below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import Rig
from torch import nn

from headstart.errors import Interrupted
from headstart.progress import Silent
from headstart.sources import open_source
from headstart.transfer.feeds import ImageFeed, KeptRows, StoredFeed, predict_logits, which_view
from headstart.transfer.interrupt import Stop
from headstart.transfer.lr_find import find_rate

Make = Callable[..., Rig]

PARTIAL: dict[str, Any] = {"strategy": "partial", "train_last": 2, "views": 3, "epochs": 4}


@contextmanager
def frozen_runs(made: Rig) -> Iterator[list[str]]:
    """The names of the frozen layers that run inside the block, each time they do."""
    runs: list[str] = []
    leaves = {leaf for block in made.trainer.frozen.blocks for leaf in block.modules}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))  # type: ignore[misc]
        for name, module in made.net.source.network.named_modules()
        if name in leaves
    ]
    yield runs
    for hook in hooks:
        hook.remove()


def losses(made: Rig) -> np.ndarray:
    return np.array([[row.get("train_loss", 0.0), row["val_loss"]] for row in made.trainer.result.history])


# --- the same training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"augment": False}, {"cut": "head", "train_last": None}, {"mixup": 0.4, "accumulate": 2, "ema": 0.5},
     {"address": "random:test_vit", "image_size": 32}],
    ids=str,
)  # fmt: skip
def test_rows_from_the_store_train_as_the_same_views_do(rig: Make, options: dict[str, Any]) -> None:
    options = dict(options)
    if address := options.pop("address", None):
        options["source"] = open_source(address, image_size=options["image_size"])
    pictures, kept = (rig(**{**PARTIAL, **options}, stored=stored) for stored in (False, True))
    assert isinstance(pictures.trainer.feed, ImageFeed)
    assert isinstance(kept.trainer.feed, StoredFeed)
    pictures.fit()
    kept.fit()
    if "mixup" not in options:  # which mixes at the cut
        assert np.allclose(losses(pictures), losses(kept), atol=2e-3)
        assert pictures.trainer.result.best_epoch == kept.trainer.result.best_epoch
    assert losses(kept)[-1, 1] < losses(kept)[0, 1]


def test_no_frozen_layer_runs_in_an_epoch_nor_in_validation_nor_for_the_answers(rig: Make) -> None:
    made = rig(**PARTIAL, stored=True)
    with frozen_runs(made) as runs:
        made.fit()
        logits, there = made.trainer.predict(made.val.items)
    assert runs == []
    assert there.all()
    whole, _ = predict_logits(ImageFeed(made.net, made.trainer.settings), made.val.items, engine=made.trainer.engine)
    assert np.allclose(logits, whole, atol=1e-4 * max(1.0, np.abs(whole).max()))
    other = rig(**PARTIAL)
    with frozen_runs(other) as runs:
        other.fit()
    assert runs


def test_frozen_entries_keep_every_bit(rig: Make) -> None:
    made = rig(**PARTIAL, stored=True)
    before = made.state()
    made.fit()
    after = made.state()
    frozen = {f"source.network.{name}" for name in made.trainer.frozen.entries}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert frozen
    assert moved.isdisjoint(frozen)
    assert any(name.startswith("source.") for name in moved)


def test_half_precision_rows_train_alike(rig: Make) -> None:
    full, half = rig(**PARTIAL, stored=True), rig(**PARTIAL, stored=True)
    feed = half.trainer.feed
    assert isinstance(feed, StoredFeed)
    feed._views = tuple(KeptRows(one.places, lambda p, one=one: one.take(p).astype("float16")) for one in feed._views)  # type: ignore[misc]  # fmt: skip
    full.fit()
    half.fit()
    assert np.allclose(losses(full), losses(half), atol=2e-2)


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_from_the_store_goes_on_as_if_never_stopped(rig: Make, tmp_path: Path, step: int) -> None:
    stop = Stop()
    made = rig(**PARTIAL, stored=True, folder=tmp_path, stop=stop)
    own, count = made.trainer._step, [0]

    def counted(*args: Any, **more: Any) -> None:
        count[0] += 1
        stop.code = 130 if count[0] == step else stop.code
        own(*args, **more)

    made.trainer._step = counted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        made.fit()
    again, whole = rig(**PARTIAL, stored=True, folder=tmp_path), rig(**PARTIAL, stored=True)
    again.fit()
    whole.fit()
    assert all(torch.equal(a, b) for a, b in zip(again.state().values(), whole.state().values(), strict=True))


# --- finding the rate -----------------------------------------------------------------------------------------------


def test_the_range_test_runs_no_frozen_layer_either_and_changes_nothing(rig: Make) -> None:
    made = rig(**PARTIAL, stored=True)
    before = made.state()
    with frozen_runs(made) as runs:
        rate, curve = find_rate(
            made.trainer.feed, made.train, task=made.task, plan=made.plan, settings=made.trainer.settings,
            index=made.trainer.frozen.index, device="cpu", reporter=Silent(),
        )  # fmt: skip
    assert runs == []
    assert rate > 0
    assert len(curve) > 5
    assert all(torch.equal(before[name], value) for name, value in made.state().items())


# --- which view -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 40), views=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(1, 50))
def test_in_as_many_epochs_as_there_are_views_every_item_has_each_once(
    n: int, views: int, seed: int, epoch: int
) -> None:
    seen = np.array([which_view(n, views, seed=seed, epoch=epoch + k) for k in range(views)])
    assert (np.sort(seen, axis=0) == np.arange(views)[:, None]).all()
    assert np.array_equal(which_view(n, views, seed=seed, epoch=epoch), seen[0])


def test_rows_are_read_by_the_names_of_their_items(rig: Make) -> None:
    items = rig(n=6).train.items
    rows = KeptRows.of(items, np.arange(12.0).reshape(6, 2))
    assert rows(items[::-1], np.array([0, 2])).tolist() == [[10.0, 11.0], [6.0, 7.0]]


def test_views_of_different_formats_lose_nothing_in_one_batch(rig: Make) -> None:
    made = rig(n=6)
    items, order = made.train.items, [np.arange(6)]
    small, large = np.ones((6, 2), np.float16), np.full((6, 2), 1e6, np.float32)
    views = [KeptRows.of(items, rows) for rows in (small, large)]
    feed = StoredFeed(made.net, None, centre=views[1], views=views, settings=made.trainer.settings)
    (batch,) = feed.training(made.train, 1, order)
    assert set(batch.images.unique().tolist()) <= {1.0, 1e6}
    assert batch.images.dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_come_in_their_order_with_and_without_a_thread_and_its_error_is_heard(rig: Make, workers: int) -> None:
    made = rig(n=7, workers=workers)
    rows = KeptRows.of(made.train.items, np.arange(7.0)[:, None])
    feed = StoredFeed(made.net, None, centre=rows, views=[], settings=made.trainer.settings)
    order = [np.array([3, 1]), np.array([], dtype=np.int64), np.array([6]), np.array([0, 2, 5])]
    found = list(feed.training(made.train, 1, order))
    assert [batch.index.tolist() for batch in found] == [positions.tolist() for positions in order]
    assert [batch.images[:, 0].tolist() for batch in found if len(batch.index)] == [[3, 1], [6], [0, 2, 5]]
    broken = StoredFeed(made.net, None, centre=KeptRows({}, rows.take), views=[], settings=made.trainer.settings)
    with pytest.raises(KeyError):
        list(broken.training(made.train, 1, order))


def test_dropout_above_the_cut_drops(rig: Make) -> None:
    made = rig(**PARTIAL, stored=True, head=nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 3)))
    rows = made.trainer.feed.inputs(torch.ones(4, made.trainer.feed.example().shape[1]), torch.device("cpu"))
    made.trainer.frozen.train_mode()
    made.net.head.train()
    assert not torch.equal(made.trainer.model(rows), made.trainer.model(rows))
    made.net.eval()
    assert torch.equal(made.trainer.model(rows), made.trainer.model(rows))
