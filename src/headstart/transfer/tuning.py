"""Training above the cut. `Trainer.fit` is the loop; each rung below it fits on a screen.

Random numbers are functions of (seed, epoch, step), not of a stream, so a run that was interrupted goes on as if it had
not been. The head fitted on frozen features is epoch 0: best weights are never worse on validation than the probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headstart import files
from headstart.data import augment
from headstart.data.loader import Views, batches
from headstart.errors import Interrupted, RunError, SettingsError
from headstart.progress import Reporter
from headstart.records import Item, Plan
from headstart.settings import Settings
from headstart.transfer import checkpoint
from headstart.transfer.engine import Engine
from headstart.transfer.groups import Frozen, parameter_groups
from headstart.transfer.interrupt import Stop
from headstart.transfer.net import TransferNet
from headstart.transfer.schedule import epoch_order, rate_factor, step_seed

__all__ = ["Samples", "Trainer", "Tuned", "class_weights", "make_optimizer", "predict_logits"]

_DROPPED_STEPS = 5  # so many steps in a row without a finite loss end the run


@dataclass(frozen=True, slots=True)
class Samples:
    """Items with their class numbers, int64 (n,)."""

    items: tuple[Item, ...]
    labels: np.ndarray

    @classmethod
    def of(cls, items: Sequence[Item]) -> Samples:
        """Take the labels from labelled items."""
        return cls(tuple(items), np.array([item.label for item in items], dtype=np.int64))


@dataclass(slots=True)
class Tuned:
    """How training went: one row an epoch (epoch 0 is the start), and which epoch's weights are in the network."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Running:
    """Sums over the steps of one epoch."""

    loss: float = 0.0
    correct: float = 0.0
    seen: int = 0


class Trainer:
    """Trains a TransferNet by a Plan. `folder` holds checkpoints and log.jsonl; None keeps nothing on disk."""

    def __init__(
        self,
        net: TransferNet,
        frozen: Frozen,
        *,
        plan: Plan,
        settings: Settings,
        engine: Engine,
        reporter: Reporter,
        folder: Path | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.net, self.frozen, self.plan, self.settings = net, frozen, plan, settings
        self.engine, self.reporter, self.folder = engine, reporter, folder
        self.stop = stop or Stop()
        groups = parameter_groups(
            net.source, net.head, rates=plan.rates, weight_decay=float(plan.schedule["weight_decay"])
        )
        self.base_rates = [float(group["lr"]) for group in groups]
        self.model, self.optimizer = engine.prepare(net, make_optimizer(plan.schedule, groups))
        below = {f"source.network.{name}" for name in frozen.entries}
        self.trained = set(net.state_dict()) - below
        self.frozen_digest = files.hash_json(frozen.before)
        self.result = Tuned()
        self.best: dict[str, Tensor] = {}
        self.best_loss = float("inf")
        self.average: dict[str, Tensor] | None = None
        self.damping, self.dropped = 1.0, 0
        self._fingerprint = ""

    # --- the loop ---------------------------------------------------------------------------------------------

    def fit(self, train: Samples, val: Samples, *, weights: Tensor | None = None) -> Tuned:
        """Train on `train`, choose the epoch by the loss on `val`, leave the best weights in the network.

        `weights` (classes,) weigh the classes in the loss. Raises Interrupted after a signal, its state saved;
        SettingsError when the loss stays without a finite value.
        """
        augmentation = augment.Augmentation.of(self.settings)
        views = Views(train.items, self.net.source.card, augmentation=augmentation, seed=self.settings.seed)
        weights = weights.to(self.engine.device) if weights is not None else None
        epoch, step, running = self._restore(train, val)
        if epoch == 0:
            self._end_epoch(0, None, val, 0.0)
            epoch = 1
        with self.stop.deferred():
            while epoch <= self.plan.epochs and not self._patience_over():
                started = time.perf_counter()
                running = self._epoch(views, train.labels, weights, epoch=epoch, step=step, running=running)
                self._end_epoch(epoch, running, val, time.perf_counter() - started)
                epoch, step, running = epoch + 1, 0, _Running()
                self._save(epoch, step, running)
        self.result.stopped_early = epoch <= self.plan.epochs
        self._load(self.best)
        self.frozen.check()
        return self.result

    def _epoch(
        self, views: Views, labels: np.ndarray, weights: Tensor | None, *, epoch: int, step: int, running: _Running
    ) -> _Running:
        """The steps of one epoch from `step` on."""
        self.frozen.train_mode()
        self.net.head.train()
        views.epoch = epoch
        order = epoch_order(len(labels), int(self.plan.schedule["batch_size"]), seed=self.settings.seed, epoch=epoch)
        total = len(order) * self.plan.epochs
        mine = [self.engine.part(positions) for positions in order[step:]]
        title = f"Epoch {epoch}/{self.plan.epochs}"
        with self.reporter.progress(title, len(labels)) as bar:
            bar.advance(sum(len(positions) for positions in order[:step]))
            for batch in batches(views, mine, workers=self.settings.workers):
                self._set_rates((epoch - 1) * len(order) + step, total)
                torch.manual_seed(step_seed(self.settings.seed, epoch, step, self.engine.rank))
                targets = torch.from_numpy(labels[batch.index])
                size = len(order[step])
                self._step(batch.images, targets, weights, size=size, running=running)
                self.result.notes += [f"left out in epoch {epoch}: {s.file}: {s.reason}" for s in batch.skipped]
                step += 1
                bar.advance(size)
                bar.update(loss=running.loss / max(1, running.seen))
                if self.stop.code is not None:
                    self._interrupt(epoch, step, running)
        return running

    def _step(self, images: Tensor, targets: Tensor, weights: Tensor | None, *, size: int, running: _Running) -> None:
        """One optimiser step over `size` images on all processes, in micro-batches."""
        device = self.engine.device
        inputs = augment.normalise(images.to(device, non_blocking=True), self.net.source.card)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        goals = functional.one_hot(targets.to(device), self._classes()).float()
        inputs, goals = self._mixup(inputs, goals)
        micro = max(1, min(int(self.plan.schedule["accumulate"]), len(inputs)))
        parts = list(zip(inputs.tensor_split(micro), goals.tensor_split(micro), strict=True))
        total = torch.zeros((), device=device)
        for number, (x, y) in enumerate(parts):
            with self.engine.accumulating(self.model, last=number == len(parts) - 1):
                logits = self.model(x)
                loss = functional.cross_entropy(
                    logits.float(), y, weight=weights, reduction="sum",
                    label_smoothing=float(self.plan.schedule["label_smoothing"]),
                )  # fmt: skip
                self.engine.backward(loss * (self.engine.world / size))
            total += loss.detach()
            running.correct += float((logits.argmax(1) == y.argmax(1)).sum())
        if self._apply(total):
            running.loss += float(total)
            running.seen += len(images)

    def _apply(self, loss: Tensor) -> bool:
        """Clip and step; a step whose loss or gradient is not finite is dropped and the rate halved."""
        clip = float(self.plan.schedule["clip"]) or float("inf")
        norm = self.engine.clip(self.model, clip)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._update_average()
            self.dropped = 0
            return True
        self.optimizer.zero_grad(set_to_none=True)
        self.dropped, self.damping = self.dropped + 1, self.damping / 2
        self.result.notes.append("a step without a finite loss was dropped and the learning rate halved")
        if self.dropped >= _DROPPED_STEPS:
            raise SettingsError(
                f"the loss is not a finite number for {_DROPPED_STEPS} steps in a row",
                remedy="Lower --lr (or --backbone-lr and --head-lr), or let `--lr find` choose it.",
            )
        return False

    # --- pieces of a step -----------------------------------------------------------------------------------------

    def _classes(self) -> int:
        last = list(self.net.head.parameters())[-1]
        return int(last.shape[0])

    def _mixup(self, inputs: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Blend pairs of images and their targets (Zhang et al. 2018, mixup, section 2)."""
        alpha = float(self.plan.schedule["mixup"])
        if alpha <= 0 or len(inputs) < 2:
            return inputs, goals
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other = torch.randperm(len(inputs), device=inputs.device)
        return inputs.lerp(inputs[other], 1 - share), goals.lerp(goals[other], 1 - share)

    def _set_rates(self, step: int, total: int) -> None:
        schedule = self.plan.schedule
        factor = rate_factor(step, total, warmup=float(schedule["warmup"]), kind=str(schedule["schedule"]))
        factor *= self.damping
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor

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

    def _end_epoch(self, epoch: int, running: _Running | None, val: Samples, seconds: float) -> None:
        """Judge the epoch on validation, keep the weights if they are the best so far, log one line."""
        live = {name: value.clone() for name, value in self._state().items()} if self.average else None
        if self.average is not None:
            self._load(self.average)
        logits = self.predict(val.items)
        loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(val.labels)))
        accuracy = float((logits.argmax(1) == val.labels).mean())
        if loss < self.best_loss or not self.best:
            self.best_loss, self.result.best_epoch = loss, epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self._state().items()}
        if live is not None:
            self._load(live)
        row: dict[str, Any] = {"epoch": epoch}
        if running is not None:
            sums = self.engine.total([running.loss, running.correct, float(running.seen)])
            row["train_loss"], row["train_accuracy"] = sums[0] / max(1.0, sums[2]), sums[1] / max(1.0, sums[2])
            row["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        row.update(val_loss=loss, val_accuracy=accuracy, seconds=round(seconds, 3))
        self.result.history.append(row)
        if self.folder is not None and self.engine.main:
            files.append_line(self.folder / "log.jsonl", {"strategy": self.plan.strategy, **row})
        self.reporter.epoch(row)

    def _patience_over(self) -> bool:
        return len(self.result.history) - 1 - self.result.best_epoch >= int(self.plan.schedule["patience"])

    def predict(self, items: Sequence[Item]) -> np.ndarray:
        """Logits float32 (n, classes) of the centre views, computed on all processes."""
        return predict_logits(self.net, items, engine=self.engine, workers=self.settings.workers)

    # --- state --------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        """What training changes: every entry above the cut, and the head."""
        return {name: value for name, value in self.net.state_dict().items() if name in self.trained}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state), strict=False)

    def _save(self, epoch: int, step: int, running: _Running) -> None:
        if self.folder is None or not self.engine.main:
            return
        tensors = {f"net.{k}": v for k, v in self._state().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        tensors |= {f"optimizer.{k}": v for k, v in checkpoint.flatten_optimizer(self.optimizer).items()}
        facts = {
            "epoch": epoch, "step": step, "running": [running.loss, running.correct, running.seen],
            "history": self.result.history, "notes": self.result.notes, "best_epoch": self.result.best_epoch,
            "best_loss": self.best_loss, "damping": self.damping, "dropped": self.dropped,
            "fingerprint": self._fingerprint, "frozen": self.frozen_digest, "world": self.engine.world,
        }  # fmt: skip
        checkpoint.save(self.folder / "checkpoints", f"epoch-{epoch:04d}-step-{step:06d}", tensors=tensors, facts=facts)

    def _restore(self, train: Samples, val: Samples) -> tuple[int, int, _Running]:
        """Where to go on: (epoch, step, sums); (0, 0, …) for a new run."""
        names = [[item.name for item in samples.items] for samples in (train, val)]
        self._fingerprint = files.hash_json([names, self.plan, self.settings.seed])
        found = checkpoint.load_latest(self.folder / "checkpoints") if self.folder is not None else None
        if found is None:
            self._write_log()
            return 0, 0, _Running()
        tensors, facts, notes = found
        for note in notes:
            self.reporter.note(note)
        if facts["fingerprint"] != self._fingerprint or facts["frozen"] != self.frozen_digest:
            raise RunError(
                "the data, the source or the plan is not what the checkpoint was trained with",
                where=self.folder,
                remedy="Start a new run with `headstart fit` and another --out.",
            )
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self._load(parts["net"])
        self.best, self.average = parts["best"], parts["average"] or None
        if self.average is not None:
            self.average = {name: value.to(self.engine.device) for name, value in self.average.items()}
        checkpoint.restore_optimizer(self.optimizer, parts["optimizer"])
        self.result.history, self.result.notes = facts["history"], facts["notes"]
        self.result.best_epoch, self.best_loss = facts["best_epoch"], facts["best_loss"]
        self.damping, self.dropped = facts["damping"], facts["dropped"]
        self._write_log()
        return int(facts["epoch"]), int(facts["step"]), _Running(*facts["running"])

    def _write_log(self) -> None:
        """Begin log.jsonl anew with the epochs that the state knows: one line an epoch, also after a resume."""
        if self.folder is not None and self.engine.main:
            files.write_text(self.folder / "log.jsonl", "")
            for row in self.result.history:
                files.append_line(self.folder / "log.jsonl", {"strategy": self.plan.strategy, **row})

    def _interrupt(self, epoch: int, step: int, running: _Running) -> None:
        self._save(epoch, step, running)
        raise Interrupted(self.stop.code or 130, f"headstart resume {self.folder}")


def predict_logits(
    net: TransferNet, items: Sequence[Item], *, engine: Engine, workers: int | None = None, batch_size: int = 64
) -> np.ndarray:
    """Logits float32 (n, classes) of the centre views, shared among the processes; NaN where one cannot be read."""
    order = [np.arange(s, min(s + batch_size, len(items))) for s in range(0, len(items), batch_size)]
    views = Views(items, net.source.card)
    net.eval()
    rows: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for batch in batches(views, order[engine.rank :: engine.world], workers=workers):
            if not len(batch.index):
                continue
            inputs = augment.normalise(batch.images.to(engine.device), net.source.card)
            with engine.autocast():
                logits = net(inputs.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
            rows.update(zip(batch.index.tolist(), logits, strict=True))
    return engine.collect(rows, len(items))


def class_weights(labels: np.ndarray, n_classes: int, mode: str) -> Tensor | None:
    """Weights (classes,) of mean 1 over the items, rarer classes heavier; None when none are needed."""
    counts = np.bincount(labels, minlength=n_classes)
    present = counts[counts > 0]
    if mode == "none" or (mode == "auto" and present.max() <= 1.5 * present.min()):
        return None
    inverse = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)
    scaled = inverse * len(labels) / (inverse * counts).sum()
    return torch.tensor(scaled, dtype=torch.float32)


def make_optimizer(schedule: Mapping[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser by name, over groups that carry their own rate and decay."""
    wanted: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, fused=True),
        "sgd": lambda: torch.optim.SGD(groups, momentum=float(schedule["momentum"]), fused=True),
    }
    return wanted[schedule["optimizer"]]()
