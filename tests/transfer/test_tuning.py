"""The loop: it learns, keeps the best weights, freezes what is frozen, and survives bad steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rigs import Rig, coloured
from torch import nn

from headstart.data.augment import center_view, normalise
from headstart.errors import SettingsError
from headstart.records import Item, MemoryOrigin
from headstart.sources import open_source
from headstart.transfer import tuning
from headstart.transfer.steps import Samples, class_weights, judged, lone_images, make_optimizer, mixed

Make = Callable[..., Rig]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- learning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loop_learns_and_logs_one_row_an_epoch(rig: Make, optimizer: str) -> None:
    made = rig(epochs=6, n=36, optimizer=optimizer, lr="5e-3")
    tuned = made.fit()
    assert [row["epoch"] for row in tuned.history] == list(range(7))
    losses = [row["val_loss"] for row in tuned.history]
    assert min(losses) < 0.5 * losses[0]
    assert tuned.best_epoch > 0
    assert tuned.history[6]["train_accuracy"] > 0.8
    assert "train_loss" not in tuned.history[0]


def test_the_best_epochs_weights_are_in_the_network_at_the_end(rig: Make) -> None:
    made = rig(epochs=4, lr="2e-3")
    tuned = made.fit()
    logits, there = made.trainer.predict(made.val.items)
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(made.val.labels))
    assert there.all()
    assert float(loss) == tuned.history[tuned.best_epoch]["val_loss"]


def test_a_start_that_training_only_makes_worse_is_kept_as_epoch_0(rig: Make) -> None:
    first = rig(epochs=8, n=36, lr="5e-3")
    first.fit()  # now the head is good
    wrong = replace(first.train, labels=(first.train.labels + 1) % 3)
    made = rig(source=first.net.source.eval(), head=first.net.head, epochs=9, patience=2, lr="1e-2", train=wrong)
    before = made.state()
    tuned = made.fit()
    assert (tuned.best_epoch, tuned.stopped_early, len(tuned.history)) == (0, True, 3)
    assert equal(made.state(), before)


def test_patience_counts_epochs_without_a_better_loss(rig: Make) -> None:
    made = rig(epochs=9, patience=2)
    made.judge_as([1.0, 0.5, 0.7, 0.4, 0.4, 0.6, 0.1])
    tuned = made.fit()
    assert (tuned.best_epoch, len(tuned.history), tuned.stopped_early) == (3, 6, True)


def test_epochs_are_chosen_by_the_order_of_the_classes_not_by_how_sure_the_network_is(
    rig: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rig(epochs=1)
    labels, n = made.val.labels, len(made.val.labels)
    right = np.eye(3, dtype=np.float32)[labels]
    modest, sure = right.copy(), right.copy()
    modest[: n // 2] = np.roll(right[: n // 2], 1, axis=1)  # half right, mildly
    sure[: n // 6] = np.roll(right[: n // 6], 1, axis=1)  # five of six right, far too sure
    found = []
    for logits in (modest, 40 * sure):
        answer = (logits, np.ones(n, dtype=bool))
        monkeypatch.setattr(tuning, "predict_logits", lambda *_args, answer=answer, **_options: answer)
        found.append(made.trainer._judge(made.val))
    assert found[1][0] > found[0][0]  # the plain loss prefers the modest one
    assert found[1][2] < found[0][2]  # the choice does not


def test_training_is_the_same_twice_and_leaves_the_global_random_numbers_alone(rig: Make) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        made = rig(mixup=0.2)
        made.fit()
        results.append((made.state(), torch.rand(3)))
    assert equal(results[0][0], results[1][0])
    torch.manual_seed(5)
    assert torch.equal(results[0][1], torch.rand(3))


def test_threads_do_not_change_the_weights(rig: Make) -> None:
    one, three = rig(workers=0), rig(workers=3)
    one.fit()
    three.fit()
    assert equal(one.state(), three.state())


def test_epochs_are_chosen_by_the_loss_at_the_best_temperature() -> None:
    labels = np.array([0, 1, 0, 1])
    order = np.array([[2, 0], [0, 2], [2, 0], [1, 0]], dtype=np.float32)  # one of four is wrong
    modest, sure = judged(order, labels), judged(order * 50, labels)
    assert sure[0] > 10 * modest[0]
    assert sure[1] == modest[1] == 0.75
    assert modest[2] < sure[2] < modest[2] + 0.01 * sure[0]
    assert judged(np.empty((0, 2), np.float32), labels[:0])[2] == math.inf


# --- freezing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"train_last": 1}, {"train_last": 3}, {"cut": "head"}], ids=str)
def test_frozen_entries_keep_every_bit_and_the_others_learn(rig: Make, options: dict[str, Any]) -> None:
    made = rig(strategy="partial", ema=0.5, **options)
    before = made.state()
    made.fit()
    made.trainer.take_state(made.trainer.best)
    frozen = {f"source.network.{name}" for name in made.trainer.frozen.entries}
    assert frozen
    after = made.state()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_every_block_above_the_cut_learns_at_its_own_rate(rig: Make) -> None:
    made = rig(strategy="discriminative", lr=None, backbone_lr=1e-4, layer_decay=0.5, epochs=1)
    blocks = [b.name for b in made.net.source.blocks if b.parameters]
    rates = {g["name"].removesuffix(".no_decay"): g["lr"] for g in made.trainer.optimizer.param_groups}
    assert list(rates) == [*blocks, "head"]
    assert [rates[name] for name in blocks] == pytest.approx([1e-4 * 0.5**n for n in range(len(blocks))][::-1])
    decays = {g["name"]: g["weight_decay"] for g in made.trainer.optimizer.param_groups}
    assert decays["head"] == 0.05
    assert decays["head.no_decay"] == 0.0


@pytest.mark.parametrize(("norms", "stay"), [("frozen", True), ("updated", False)])
def test_statistics_of_a_pretrained_network_move_or_stay_as_told(rig: Make, norms: str, stay: bool) -> None:
    made = rig(norm_stats=norms, lr="1e-2", epochs=1)
    made.judge_as([1.0, 0.5])
    before = made.state()
    made.fit()
    moved = {name for name, value in made.state().items() if not torch.equal(before[name], value)}
    assert any("running_mean" in name for name in moved) is not stay
    assert "source.network.bn1.weight" in moved


# --- options --------------------------------------------------------------------------------------------------


def smooth() -> Any:
    """A source without BatchNorm or dropout."""
    return open_source(["random:test_vit", "r160_in1k"][0], image_size=32)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}], ids=str)
def test_micro_batches_give_the_step_of_one_batch_where_nothing_mixes_images(
    rig: Make, options: dict[str, Any]
) -> None:
    states = []
    for accumulate in (1, 4):
        made = rig(
            source=smooth(), accumulate=accumulate, epochs=1, batch_size=7, n=14, optimizer="sgd", lr="0.05",
            augment=False, **options,
        )  # fmt: skip
        made.fit(weights=class_weights(made.train.labels, 3, str(made.plan.schedule["class_weights"])))
        states.append(made.state())
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0])


def test_one_step_is_the_step_of_plain_pytorch(rig: Make) -> None:
    made = rig(source=smooth(), n=6, epochs=1, optimizer="sgd", lr="0.1", momentum=0.0, weight_decay=0.0, warmup=0.0,
               augment=False, clip=0.0, label_smoothing=0.1)  # fmt: skip
    net, card = made.net, made.net.source.card
    weights = torch.tensor([1.0, 2.0, 0.5])
    images = torch.stack([center_view(item.origin.value, card) for item in made.train.items])  # type: ignore[union-attr]
    loss = nn.functional.cross_entropy(
        net(normalise(images, card)), torch.from_numpy(made.train.labels), weight=weights, label_smoothing=0.1,
        reduction="sum",
    ) / 6  # fmt: skip
    wanted = {
        name: parameter.detach() - 0.1 * gradient
        for (name, parameter), gradient in zip(
            net.named_parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
        )
    }
    made.judge_as([1.0, 0.5])
    tuned = made.fit(weights=weights)
    assert tuned.best_epoch == 1
    assert tuned.history[1]["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
    state = made.state()
    assert all(torch.allclose(state[name], value, atol=1e-5) for name, value in wanted.items())


def test_the_average_of_weights_is_what_is_judged_and_kept(rig: Make) -> None:
    made = rig(ema=0.9, epochs=2)
    made.fit()
    assert made.trainer.average is not None
    weight = made.trainer.average["head.weight"]
    assert torch.equal(made.net.head.weight, made.trainer.best["head.weight"])  # type: ignore[arg-type]
    if made.trainer.result.best_epoch == 2:
        assert torch.equal(weight, made.trainer.best["head.weight"])
    plain = rig(epochs=2)
    plain.fit()
    assert not torch.equal(plain.net.head.weight, made.net.head.weight)  # type: ignore[arg-type]


def test_an_average_follows_its_formula(rig: Make) -> None:
    made = rig(ema=0.75)
    weight = made.net.head.weight
    seen = []
    for value in (1.0, 3.0, 2.0):
        weight.data.fill_(value)  # type: ignore[operator]
        made.trainer._update_average()
        assert made.trainer.average is not None
        seen.append(float(made.trainer.average["head.weight"][0, 0]))
    assert seen == pytest.approx([1.0, 1.5, 1.625])


def test_mixup_blends_images_and_targets_alike() -> None:
    torch.manual_seed(3)
    goals = torch.eye(4)
    inputs = goals.view(4, 4, 1, 1) * 10
    x, y = mixed(inputs, goals, 5.0)
    assert torch.allclose(x.flatten(1) / 10, y)
    assert torch.allclose(y.sum(1), torch.ones(4))
    assert not torch.equal(y, goals)
    assert mixed(inputs, goals, 0.0)[0] is inputs
    assert mixed(inputs[:1], goals[:1], 0.5)[0].shape == (1, 4, 1, 1)


def test_class_weights_have_mean_one_and_favour_the_rare() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4)
    weights = class_weights(labels, 4, "auto")
    assert weights is not None
    assert float(weights[labels].mean()) == pytest.approx(1.0)
    assert weights[1] / weights[0] == pytest.approx(3.0)
    assert weights[2] == 1.0  # a class without items
    assert class_weights(labels, 4, "none") is None
    assert class_weights(np.array([0, 0, 0, 1, 1]), 2, "auto") is None
    assert class_weights(np.array([0, 0, 0, 1, 1]), 2, "balanced") is not None
    assert class_weights(np.array([], dtype=np.int64), 2, "auto") is None


def test_optimisers_are_found_by_name() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1, "weight_decay": 0.0}]
    assert make_optimizer({"optimizer": "sgd", "momentum": 0.5}, groups).param_groups[0]["momentum"] == 0.5
    assert isinstance(make_optimizer({"optimizer": "adamw"}, groups), torch.optim.AdamW)


def test_bf16_on_the_cpu_trains_in_bf16_and_answers_in_full_precision(rig: Make) -> None:
    made = rig(precision="bf16", epochs=1)
    kinds: list[tuple[bool, torch.dtype]] = []
    made.net.head.register_forward_hook(lambda m, _, out: kinds.append((torch.is_inference_mode_enabled(), out.dtype)))
    tuned = made.fit()
    assert {kind for judged, kind in kinds if not judged} == {torch.bfloat16}
    assert {kind for judged, kind in kinds if judged} == {torch.float32}
    assert np.isfinite([row["val_loss"] for row in tuned.history]).all()
    assert {p.dtype for p in made.net.parameters()} == {torch.float32}
    assert "forward" not in vars(made.net)  # nothing was wrapped for good


def test_trainers_of_other_precision_and_device_may_follow_each_other(rig: Make) -> None:
    rig(precision="bf16", epochs=1).fit()
    made = rig(precision="fp32", epochs=1)
    made.fit()
    assert made.trainer.engine.precision == "fp32"


# --- batches of one, empty batches ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "options"), [(7, {"batch_size": 6, "accumulate": 6}), (3, {"batch_size": 2}), (1, {})])
def test_batches_of_one_image_train_networks_with_batchnorm(rig: Make, n: int, options: dict[str, Any]) -> None:
    flat = open_source("random:resnet10t", image_size=32)  # its last map is one pixel: no statistics in one image
    tuned = rig(source=flat, n=n, epochs=1, norm_stats="updated", **options).fit()
    assert math.isfinite(tuned.history[1]["train_loss"])


def test_a_lone_image_leaves_statistics_and_modes_as_they_were() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    net[1].eval()
    with lone_images(net, 1):
        net(torch.ones(1, 2))
    assert [m.training for m in net] == [True, False]
    assert torch.equal(net[0].running_mean, torch.zeros(2))
    with lone_images(net, 2):
        assert net[0].training


def test_pictures_that_vanish_are_left_out_named_once_and_nothing_replaces_them(rig: Make) -> None:
    good = coloured(12)
    items = list(good.items)
    for number in (3, 4):
        items[number] = Item(f"gone{number}", MemoryOrigin(b""), items[number].label)
    made = rig(train=Samples(tuple(items), good.labels), epochs=2, batch_size=1)  # batches of none, too
    tuned = made.fit()
    assert [note for note in tuned.notes if "gone" in note] == made.reporter.notes
    assert sorted(note.split(":")[1].strip() for note in tuned.notes) == ["gone3", "gone4"]


def test_a_validation_picture_that_vanishes_does_not_spoil_the_loss(rig: Make) -> None:
    val = coloured(9, first=1000)
    items = (*val.items[:8], Item("gone", MemoryOrigin(b""), 2))
    made = rig(val=Samples(items, val.labels))
    tuned = made.fit()
    assert all(math.isfinite(row["val_loss"]) for row in tuned.history)
    logits, there = made.trainer.predict(items)
    assert there.tolist() == [True] * 8 + [False]
    assert np.isnan(logits[8]).all()


def test_no_validation_picture_at_all_keeps_the_start(rig: Make) -> None:
    made = rig(val=Samples((Item("gone", MemoryOrigin(b""), 0),), np.array([0])), epochs=1)
    tuned = made.fit()
    assert tuned.best_epoch == 0
    assert tuned.history[1]["val_loss"] is None


# --- bad numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "norms"), [("toy", "updated"), ("toy", "frozen"), ("random:test_vit", "frozen")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_absurd_rate_ends_with_advice_and_finite_weights(
    rig: Make, tmp_path: Path, address: str, norms: str, optimizer: str
) -> None:
    source = open_source(address, image_size=32)
    made = rig(
        norm_stats=norms,
        source=source,
        lr="1e20",
        optimizer=optimizer,
        epochs=40,
        patience=40,
        warmup=0.0,
        folder=tmp_path,
        clip=0.0,
    )
    with pytest.raises(SettingsError, match=r"Lower --lr .*--lr find"):
        made.fit()
    assert all(torch.isfinite(value).all() for value in made.state().values())
    for path in tmp_path.rglob("state.safetensors"):
        from safetensors.torch import load_file

        assert all(torch.isfinite(v).all() for v in load_file(path).values() if v.is_floating_point())


class Faulty(nn.Linear):
    """A head that answers NaN at chosen forward passes in training."""

    def __init__(self, bad: set[int]) -> None:
        torch.manual_seed(0)
        super().__init__(64, 3)
        self.bad, self.calls = bad, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = super().forward(x)
        if self.training and not torch.is_inference_mode_enabled():
            self.calls += 1
            if self.calls in self.bad:
                return answer * float("nan")
        return answer


def test_a_step_without_a_finite_loss_is_dropped_and_the_rates_recover(rig: Make) -> None:
    made = rig(head=Faulty({2}), epochs=8, schedule="constant", warmup=0.0, patience=99)
    rates: list[float] = []
    before = made.trainer._set_rates

    def watched(*args: Any) -> float:
        rates.append(before(*args))
        assert rates[-1] == made.trainer.optimizer.param_groups[0]["lr"]
        return rates[-1]

    made.trainer._set_rates = watched  # type: ignore[method-assign]
    tuned = made.fit()
    assert len(tuned.notes) == 1
    assert "dropped" in tuned.notes[0]
    assert rates[:3] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert rates[-1] == pytest.approx(1e-3)
    assert all(torch.isfinite(value).all() for value in made.state().values())
    assert tuned.history[1]["train_accuracy"] <= 1.0


def test_a_dropped_step_changes_no_weight(rig: Make) -> None:
    made = rig(head=Faulty({1}), epochs=1, n=6)
    before = {name: p.clone() for name, p in made.net.named_parameters()}
    made.fit()
    assert all(torch.equal(before[name], p) for name, p in made.net.named_parameters())


def test_steps_that_stay_bad_from_the_start_end_the_run(rig: Make) -> None:
    made = rig(head=Faulty(set(range(1, 99))), epochs=9, patience=99)
    with pytest.raises(SettingsError, match="5 steps in a row"):
        made.fit()
    assert made.trainer.damping == pytest.approx(1 / 32)
    assert tuning._DROPPED_STEPS == 5


def test_steps_that_stay_bad_later_end_the_training_with_the_best_weights(rig: Make) -> None:
    made = rig(head=Faulty(set(range(4, 99))), epochs=9, patience=99)
    tuned = made.fit()
    assert tuned.best_epoch == 1
    assert tuned.stopped_early
    assert [row["epoch"] for row in tuned.history] == [0, 1, 2, 3]
    assert tuned.notes[-1].startswith("training ended, for the loss was not a finite number, or ran away, for 5 steps")
    assert all(torch.isfinite(value).all() for value in made.state().values())
    assert np.isfinite(made.trainer.predict(made.val.items)[0]).all()


def test_many_dropped_steps_are_one_note(rig: Make) -> None:
    made = rig(head=Faulty({2, 4, 6, 8}), epochs=4, patience=99)
    (told,) = made.fit().notes
    assert told.startswith("4 steps without a finite loss dropped")


class Overflowing(nn.Module):
    """A head with BatchNorm, whose input is not finite at chosen forward passes in training."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, 3)
        self.bad, self.calls = bad, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
            x = x * (float("inf") if self.calls in self.bad else 1.0)
        answer: torch.Tensor = self.last(self.norm(x))
        return answer


def test_a_dropped_step_leaves_no_trace_in_the_statistics_of_batchnorm(rig: Make) -> None:
    made = rig(head=Overflowing({2}), epochs=3, patience=99)
    tuned = made.fit()
    assert all(math.isfinite(row["val_loss"]) for row in tuned.history)
    assert torch.isfinite(made.net.head.norm.running_mean).all()
    assert made.net.head.norm.num_batches_tracked < 9


def test_a_hesitant_epoch_that_was_right_by_luck_is_not_made_surer() -> None:
    labels = np.array([0, 1, 2])
    hesitant, learned = 0.01 * np.eye(3, dtype=np.float32), 3.0 * np.eye(3, dtype=np.float32)
    assert judged(hesitant, labels)[2] > 1.0 > judged(learned, labels)[2]


def test_when_the_time_is_over_training_ends_with_the_best_that_it_has(rig: Make) -> None:
    made = rig(epochs=50, n=36, lr="5e-3")
    steps, step = [], made.trainer._apply

    def counted(loss: float, size: int) -> bool:
        steps.append(loss)
        if len(steps) == 20:  # six steps an epoch: in the fourth
            made.trainer.stop.deadline = 0.0
        return step(loss, size)

    made.trainer._apply = counted  # type: ignore[method-assign]
    tuned = made.fit()
    assert len(steps) == 20
    assert [row["epoch"] for row in tuned.history] == [0, 1, 2, 3, 4]
    assert tuned.history[tuned.best_epoch]["val_loss"] < tuned.history[0]["val_loss"]
    assert "the time was over in epoch 4 of 50, after 2 of 6 steps" in tuned.notes
