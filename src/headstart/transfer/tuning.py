"""Training above the cut. `Trainer.fit` is the loop; each rung below it fits on a screen.

Random numbers are functions of (seed, epoch, step), not of a stream, so a run that was interrupted goes on as if it had
not been. The head fitted on frozen features is epoch 0: best weights are never worse on validation than the probe.

The state is saved after every epoch, every `_SAVE_SECONDS` within one, and when a signal asks to stop; unless one does,
not before `1 / _SAVE_SHARE` times as long has passed as a save takes (the first: is expected to take). Never before the
first step, and never while steps are being dropped or a number is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headstart import files
from headstart.data.loader import Batch
from headstart.errors import Interrupted, RunError, SettingsError
from headstart.progress import Reporter
from headstart.records import Item, Plan, plain
from headstart.settings import Settings
from headstart.tasks import Classification, Task
from headstart.transfer import checkpoint
from headstart.transfer.engine import Engine
from headstart.transfer.feeds import Feed, Halted, predict_logits
from headstart.transfer.groups import Frozen, hold_norms, parameter_groups
from headstart.transfer.interrupt import Stop
from headstart.transfer.memory import halved, ran_out
from headstart.transfer.net import TransferNet
from headstart.transfer.schedule import epoch_order, rate_factor, step_seed
from headstart.transfer.steps import (
    Samples,
    class_weights,
    judged,
    lone_images,
    make_optimizer,
    mixed,
)

__all__ = ["Samples", "Trainer", "Tuned", "class_weights"]

_SAVE_SECONDS = 60.0
_SAVE_SHARE = 0.02  # of the time
_EXPECTED = 4 / 200e6  # seconds that a byte of the state costs: with its best and two moments, on a plain disk
_DROPPED_STEPS = 5  # so many bad steps in a row end the training
_LOST = "without a finite loss dropped, each of which halved the learning rate for a while"
_RUNAWAY = 1e6  # nats an image: no network that learns is so wrong
_RECOVERY = 2 ** (1 / 20)  # twenty good steps take one halving of the rates back


@dataclass(slots=True)
class Tuned:
    """How training went: one row an epoch (epoch 0 is the start), and which epoch's weights are in the network."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # of what was chosen on the way


@dataclass(slots=True)
class _At:
    """Where training stands: the next step of an epoch, and sums and the rate over the steps done in it."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    rate: float = 0.0


class Trainer:
    """Trains a feed's network by a Plan. `folder` holds checkpoints and log.jsonl; None keeps nothing on disk."""

    def __init__(
        self,
        feed: Feed,
        frozen: Frozen,
        *,
        plan: Plan,
        settings: Settings,
        engine: Engine,
        reporter: Reporter,
        folder: Path | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.feed, self.frozen, self.plan, self.settings = feed, frozen, plan, settings
        self.net: TransferNet = feed.net
        self.engine, self.reporter, self.folder = engine, reporter, folder
        self.stop = stop or Stop()
        self.model = engine.prepare(feed.module, feed.example())
        groups = self._groups()
        self.base_rates = [float(group["lr"]) for group in groups]
        self.optimizer = make_optimizer(plan.schedule, groups)
        below = {f"source.network.{name}" for name in frozen.entries}
        self.trained = set(self.net.state_dict()) - below
        self.frozen_digest = files.hash_json(frozen.before)
        self.result = Tuned()
        self.best: dict[str, Tensor] = {}
        self.best_loss = float("inf")
        self.average: dict[str, Tensor] | None = None
        self.damping, self.dropped, self.lost = 1.0, 0, 0
        self.pieces = int(plan.schedule["accumulate"])  # micro-batches of a step; more once memory has run out
        self._statistics: tuple[list[Tensor], list[Tensor]] | None = None
        self.task: Task = Classification(())
        self._fingerprint, self._saved, self._save_cost, self._stopping, self._over = "", 0.0, 0.0, 0, ""
        self._damaged: set[str] = set()  # checkpoints that were passed over

    def _groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters, each with its rate."""
        decay = float(self.plan.schedule["weight_decay"])
        return parameter_groups(self.net.source, self.net.head, rates=self.plan.rates, weight_decay=decay)

    # --- the loop ---------------------------------------------------------------------------------------------

    def fit(self, train: Samples, val: Samples, *, task: Task, weights: Tensor | None = None) -> Tuned:
        """Train on `train`, choose the epoch by the calibrated loss on `val`, leave the best weights in the network.

        `task` says how wrong an answer is; `weights` (classes,) weigh the classes in its loss. Raises Interrupted after
        a signal, its state saved; SettingsError when the loss stays without a finite value; RunError when the folder's
        checkpoint is of another run. torch's global random numbers are left as they were.
        """
        weights, self.task = weights.to(self.engine.device) if weights is not None else None, task
        own = [self.engine.device] if self.engine.device.type == "cuda" else []
        self.feed.remember(val.items)
        with self.engine.at_work(), torch.random.fork_rng(devices=own), self.stop.deferred():
            at = self._restore(train, val)
            if at.epoch == 0:
                at = self._end_epoch(at, val)
            while at.epoch <= self.plan.epochs and not self._patience_over() and not self._over:
                self._epoch(at, train, weights)
                at = self._end_epoch(at, val)
                if self._save_due(0.0):
                    self._save(at)
                if self.engine.worst(self.stop.code or 0):
                    self._interrupt(at)
        self.result.stopped_early = at.epoch <= self.plan.epochs
        self.take_state(self.best)
        self.frozen.check()
        return self.result

    def _epoch(self, at: _At, train: Samples, weights: Tensor | None) -> None:
        """The steps of one epoch from `at` on."""
        self.frozen.train_mode()
        self.net.head.train()
        if self.plan.schedule["norm_stats"] == "frozen":
            hold_norms(self.net.source)
        batch_size = int(self.plan.schedule["batch_size"])
        order = epoch_order(len(train.items), batch_size, seed=self.settings.seed, epoch=at.epoch)
        mine = [self.engine.part(positions) for positions in order[at.step :]]
        before, started = at.seconds, time.perf_counter()
        with self.reporter.progress(f"Epoch {at.epoch}/{self.plan.epochs}", len(train.items)) as bar:
            bar.advance(sum(len(positions) for positions in order[: at.step]))
            for batch in self.feed.training(train, at.epoch, mine):
                at.rate = self._set_rates((at.epoch - 1) * len(order) + at.step, len(order) * self.plan.epochs)
                size = len(order[at.step])
                self._step(batch, train.labels, weights, size=size, at=at)
                at.step, at.seconds = at.step + 1, before + time.perf_counter() - started
                bar.advance(size)
                bar.update(loss=at.loss / max(1, at.seen))
                if self._stopping:
                    self._interrupt(at)
                if self._over:
                    where = f"epoch {at.epoch} of {self.plan.epochs}, after {at.step} of {len(order)} steps"
                    self.result.notes.append(f"{self._over} in {where}")
                    return
                if self._save_due(_SAVE_SECONDS):
                    self._save(at)

    def _step(self, batch: Batch, labels: np.ndarray, weights: Tensor | None, *, size: int, at: _At) -> None:
        """One optimiser step over `size` images on all processes, in more micro-batches where memory runs out."""
        self._note_left_out(batch, at.epoch)
        if not len(batch.index) and self.engine.world == 1:
            return
        self._keep_statistics()
        while True:
            torch.manual_seed(step_seed(self.settings.seed, at.epoch, at.step, self.engine.rank))
            try:
                total, correct = self._gradients(batch, labels, weights, size=size)
                break
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error) or self.engine.world > 1:  # the others wait for this one's gradients
                    raise
            self._smaller(len(batch.index))  # out of the handler, which holds what filled the memory
        if self._apply(total, size):
            at.loss, at.correct, at.seen = at.loss + total, at.correct + correct, at.seen + len(batch.index)

    def _gradients(self, batch: Batch, labels: np.ndarray, weights: Tensor | None, *, size: int) -> tuple[float, float]:
        """The gradients of a step, by micro-batches; the sum of the losses and the number of right answers."""
        images, targets, counts = batch.images, torch.from_numpy(labels[batch.index]), len(batch.index)
        if not counts:  # nothing to learn from here, but the other processes wait for this one's gradients
            images, targets = torch.zeros_like(self.feed.example(), dtype=images.dtype), torch.tensor([0])
        device, schedule = self.engine.device, self.plan.schedule
        inputs = self.feed.inputs(images, device)
        goals = functional.one_hot(targets.to(device), self.task.outputs).float()
        inputs, goals = mixed(inputs, goals, float(schedule["mixup"]))
        micro = min(self.pieces, len(inputs))
        parts = list(zip(inputs.tensor_split(micro), goals.tensor_split(micro), strict=True))
        if self.engine.precision == "auto":
            self._settle(*parts[0], weights)
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for number, (x, y) in enumerate(parts):
            last = number == len(parts) - 1
            with self.engine.accumulating(self.model, last=last), lone_images(self.net, len(x)):
                with self.engine.autocast():
                    logits = self.model(x)
                smoothing = float(schedule["label_smoothing"])
                loss = self.task.loss(logits.float(), y, weights=weights, smoothing=smoothing) * len(x)
                loss = loss if counts else loss * 0
                (loss * (self.engine.world / size)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            correct += (logits.argmax(1) == y.argmax(1)).sum()
        return float(total), float(correct)

    def _apply(self, loss: float, size: int) -> bool:
        """Clip and step. A step whose loss or gradient is not finite, or runs away, is dropped on all processes.

        Each dropped step halves the rates, and good steps after it take them back up: one odd batch costs little,
        and rates that are too high are lowered until they fit. `_DROPPED_STEPS` in a row end the training: with the
        best weights so far, or with an error where no epoch was better than the start.
        """
        clip = float(self.plan.schedule["clip"]) or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        bad = not (np.isfinite(norm) and loss < _RUNAWAY * size)  # NaN is not below anything
        told = self.engine.gather((bad, self.stop.code or 0, self.stop.late))
        self._stopping = max(code for _, code, _ in told)
        self._over = "the time was over" if any(late for _, _, late in told) else ""
        if not any(one for one, _, _ in told):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._update_average()
            self.dropped, self.damping = 0, min(1.0, self.damping * _RECOVERY)
            return True
        self.optimizer.zero_grad(set_to_none=True)
        self._drop()
        return False

    def _drop(self) -> None:
        """Take a bad step back, lower the rates, and see whether it was one too many."""
        self._put_statistics_back()
        self.dropped, self.damping, self.lost = self.dropped + 1, self.damping / 2, self.lost + 1
        notes = [note for note in self.result.notes if not note.endswith(_LOST)]
        self.result.notes = [*notes, f"{self.lost} step{'s' * (self.lost > 1)} {_LOST}"]
        if self.dropped < _DROPPED_STEPS:
            return
        said = f"the loss is not a finite number, or runs away, for {_DROPPED_STEPS} steps in a row"
        if self.result.best_epoch:
            self._over = f"training ended, for {said.replace(' is not', ' was not').replace('runs', 'ran')}"
            return
        self.take_state(self.best)
        raise SettingsError(said, remedy="Lower --lr (or --backbone-lr and --head-lr), or let `--lr find` choose it.")

    # --- pieces of a step -----------------------------------------------------------------------------------------

    def _keep_statistics(self) -> None:
        """Copy what a forward pass changes by itself, BatchNorm's running statistics, so that it can be taken back."""
        if self._statistics is None:
            live = [buffer for name, buffer in self.net.named_buffers() if name in self.trained]
            self._statistics = live, [buffer.clone() for buffer in live]
        elif self._statistics[0]:
            torch._foreach_copy_(self._statistics[1], self._statistics[0])

    def _put_statistics_back(self) -> None:
        if self._statistics is not None:
            for live, kept in zip(*self._statistics, strict=True):
                live.copy_(kept)

    def _smaller(self, n: int) -> None:
        """Halve the micro-batches of a step of `n` images that found no memory; its size stays as it is."""
        self.optimizer.zero_grad(set_to_none=True)
        self._put_statistics_back()
        pieces = min(self.pieces, n)
        each = halved(-(-n // pieces))
        self.pieces = -(-n // each)
        batch = int(self.plan.schedule["batch_size"])
        self.result.notes.append(
            f"memory ran out: steps of {batch} images go on in micro-batches of {each}, which changes no step but for "
            "the statistics of BatchNorm"
        )
        self.reporter.note(self.result.notes[-1])

    def _settle(self, x: Tensor, y: Tensor, weights: Tensor | None) -> None:
        """Choose the number format by the first batch of the run."""
        smoothing = float(self.plan.schedule["label_smoothing"])
        with lone_images(self.net, len(x)):
            told = self.engine.settle(
                self.feed.module,
                lambda: self.task.loss(self.feed.module(x).float(), y, weights=weights, smoothing=smoothing),
            )
        self.result.reasons.append(told)
        self.reporter.say(told)

    def _note_left_out(self, batch: Batch, epoch: int) -> None:
        for entry in batch.skipped:
            said = f"left out of training: {entry.file}: {entry.reason}"
            if not any(note.startswith(said) for note in self.result.notes):
                self.result.notes.append(f"{said} (from epoch {epoch} on)")
                self.reporter.note(self.result.notes[-1])

    def _set_rates(self, step: int, total: int) -> float:
        """Set every group's rate for this step; returns the largest."""
        schedule = self.plan.schedule
        factor = rate_factor(step, total, warmup=float(schedule["warmup"]), kind=str(schedule["schedule"]))
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor * self.damping
        return max(self.base_rates) * factor * self.damping

    def _update_average(self) -> None:
        decay = float(self.plan.schedule["ema"])
        if decay <= 0:
            return
        state = self._state()
        if self.average is None:
            self.average = {name: value.clone() for name, value in state.items()}
        for name, value in state.items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    # --- the end of an epoch ---------------------------------------------------------------------------------------

    def _end_epoch(self, at: _At, val: Samples) -> _At:
        """Judge the epoch on validation, keep the weights if they are the best so far, log one line."""
        self._share_statistics()
        live = {name: value.clone() for name, value in self._state().items()} if self.average else None
        self.take_state(self.average or {})
        try:
            loss, accuracy, choice = self._judge(val)
            if choice < self.best_loss or not self.best:
                self.best_loss, self.result.best_epoch = choice, at.epoch
                self.best = {name: value.detach().cpu().clone() for name, value in self._state().items()}
        except Halted:
            self.take_state(live or {})
            self._interrupt(at)
        self.take_state(live or {})
        row: dict[str, Any] = {"epoch": at.epoch}
        if at.epoch:
            sums = self.engine.total([at.loss, at.correct, float(at.seen)])
            row["train_loss"], row["train_accuracy"] = sums[0] / max(1.0, sums[2]), sums[1] / max(1.0, sums[2])
            row["lr"] = at.rate
        row.update(val_loss=loss, val_accuracy=accuracy, seconds=round(at.seconds, 3))
        self.result.history.append(plain(row))
        if self.folder is not None and self.engine.main:
            files.append_line(self.folder / "log.jsonl", {"strategy": self.plan.strategy, **row})
        self.reporter.epoch(row)
        return _At(at.epoch + 1)

    def _judge(self, val: Samples) -> tuple[float, float, float]:
        """Loss, accuracy, and the loss that epochs are chosen by, over the items that can be read; see `judged`."""
        alone = self.engine.world == 1  # then a signal need not wait for the end
        halt = (lambda: self.stop.code is not None) if alone else None
        logits, there = self._answers(val.items, halt=halt)
        return judged(logits[there], val.labels[there])

    def _share_statistics(self) -> None:
        """BatchNorm's running statistics are each process's own until here."""
        names = [name for name, _ in self.net.named_buffers() if name in self.trained]
        own = self.net.state_dict()
        self.engine.average([own[name] for name in names])
        if self.average is not None:
            self.engine.average([self.average[name] for name in names])

    def _patience_over(self) -> bool:
        return len(self.result.history) - 1 - self.result.best_epoch >= int(self.plan.schedule["patience"])

    def predict(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 (n, classes) of the centre views and which could be read (n,); see `predict_logits`."""
        with self.engine.at_work():
            return self._answers(items)

    def _answers(
        self, items: Sequence[Item], *, halt: Callable[[], bool] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        before = self.feed.at_once
        found = predict_logits(self.feed, items, engine=self.engine, halt=halt)
        if self.feed.at_once < before:
            self.result.notes.append(f"memory ran out: answers are computed for {self.feed.at_once} images at a time")
            self.reporter.note(self.result.notes[-1])
        return found

    # --- state --------------------------------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of what training changes: every entry above the cut, and the head."""
        return {name: value.detach().clone() for name, value in self._state().items()}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Put entries, as `trained_state` gives them, into the network."""
        self.net.load_state_dict(dict(state), strict=False)

    def _state(self) -> dict[str, Tensor]:
        """What training changes: every entry above the cut, and the head."""
        return {name: value for name, value in self.net.state_dict().items() if name in self.trained}

    def _save_due(self, wanted: float) -> bool:
        """Whether `wanted` seconds have passed since the last save, or longer where a save takes long."""
        return time.monotonic() - self._saved > max(wanted, self._save_cost / _SAVE_SHARE)

    def _save(self, at: _At) -> None:
        self._saved = time.monotonic()
        if self.folder is None or not self.engine.main or self.dropped or not at.epoch:
            return
        tensors = {f"net.{k}": v for k, v in self._state().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        tensors |= {f"optimizer.{k}": v for k, v in checkpoint.flatten_optimizer(self.optimizer).items()}
        facts = {
            "at": asdict(at), "history": self.result.history, "notes": self.result.notes,
            "best_epoch": self.result.best_epoch, "best_loss": self.best_loss, "damping": self.damping,
            "lost": self.lost, "pieces": self.pieces, "at_once": self.feed.at_once,
            "fingerprint": self._fingerprint, "machine": self._machine(),
            "precision": self.engine.precision, "reasons": self.result.reasons,
        }  # fmt: skip
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            return
        name = f"epoch-{at.epoch:04d}-step-{at.step:06d}"
        checkpoint.save(self.folder / "checkpoints", name, tensors=tensors, facts=facts, damaged=self._damaged)
        self._save_cost = time.monotonic() - self._saved

    def _machine(self) -> dict[str, Any]:
        return {"processes": self.engine.world, "threads": torch.get_num_threads(), "device": self.engine.device.type}

    def _restore(self, train: Samples, val: Samples) -> _At:
        """Where to go on; epoch 0 for a new run."""
        data = [[[item.name for item in s.items], s.labels, s.hashes] for s in (train, val)]
        own = [self.plan, self.settings.seed, self.net.source.card, self.settings.precision, self.frozen_digest]
        self._fingerprint, self._saved = files.hash_json([data, own]), time.monotonic()
        self._save_cost = _EXPECTED * sum(value.nbytes for value in self._state().values())
        found, notes = checkpoint.load_latest(self.folder / "checkpoints") if self.folder is not None else (None, {})
        self._damaged = set(notes)
        for note in notes.values():
            self.reporter.note(note)
        with checkpoint.taking(self.folder):
            at = self._take(*found) if found is not None else _At()
        if len(set(self.engine.gather((at.epoch, at.step)))) > 1:
            raise RunError(
                "the processes do not see the same checkpoints", where=self.folder,
                remedy="Give --out on a disk that all machines share.",
            )  # fmt: skip
        self._write_log()
        return at

    def _take(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> _At:
        """Take over the state of a checkpoint of this very run."""
        if facts["fingerprint"] != self._fingerprint:
            raise RunError(
                "the data, the source or the plan is not what the checkpoint was trained with",
                where=self.folder,
                remedy="Start a new run with `headstart fit` and another --out.",
            )
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.take_state(parts["net"])
        self.best, average = parts["best"], parts["average"]
        like = self.net.state_dict()
        self.average = {k: torch.empty_like(like[k]).copy_(v) for k, v in average.items()} or None
        checkpoint.restore_optimizer(self.optimizer, parts["optimizer"])
        self.result.history, self.result.notes = facts["history"], facts["notes"]
        if facts["machine"] != (now := self._machine()):
            told = f"the run was begun with {facts['machine']} and goes on with {now}: last digits may differ"
            self.result.notes.append(told)  # for the report; the console hears it when the run is taken up
        self.result.best_epoch, self.damping = facts["best_epoch"], facts["damping"]
        self.engine.precision, self.result.reasons = facts["precision"], facts["reasons"]
        self.best_loss = float("inf") if facts["best_loss"] is None else facts["best_loss"]
        self.lost, self.pieces = facts.get("lost", 0), facts.get("pieces", self.pieces)
        self.feed.at_once = facts.get("at_once", self.feed.at_once)
        return _At(**facts["at"])

    def _write_log(self) -> None:
        """Begin log.jsonl anew with the epochs that the state knows: one line an epoch, also after a resume."""
        if self.folder is not None and self.engine.main:
            files.write_text(self.folder / "log.jsonl", "")
            for row in self.result.history:
                files.append_line(self.folder / "log.jsonl", {"strategy": self.plan.strategy, **row})

    def _interrupt(self, at: _At) -> None:
        """Save, let no process leave before the state is on disk, and end."""
        self._save(at)
        self.engine.wait()
        where = f"headstart resume {self.folder}" if self.folder is not None else "the same call again"
        raise Interrupted(self.stop.code or self._stopping or 130, where)
