"""A range test for the learning rate: raise it step by step and watch the loss.

Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from headstart.errors import DataError
from headstart.progress import Reporter
from headstart.records import Plan
from headstart.settings import Settings
from headstart.tasks import Task
from headstart.transfer.feeds import Feed
from headstart.transfer.groups import freeze, hold_norms, parameter_groups
from headstart.transfer.memory import in_pieces
from headstart.transfer.precision import exact
from headstart.transfer.schedule import epoch_order, step_seed
from headstart.transfer.steps import Samples, lone_images, make_optimizer

__all__ = ["find_rate"]

_LOW, _HIGH, _STEPS = 1e-6, 1.0, 60


def find_rate(
    feed: Feed,
    train: Samples,
    *,
    task: Task,
    plan: Plan,
    settings: Settings,
    index: int,
    device: str,
    reporter: Reporter,
) -> tuple[float, list[dict[str, float]]]:
    """A rate for the head, and the curve [{rate, loss}] it was read from. The feed's network is not changed.

    The rate is a tenth of the one at which the smoothed loss was lowest before it grew; other blocks keep their
    proportion to the head. `index` is the number of frozen blocks. Where memory runs out it goes on in micro-batches.
    """
    trial = copy.deepcopy(feed.net).to(device=device).to(memory_format=torch.channels_last)
    own = feed.onto(trial)
    frozen = freeze(trial.source, index, pooling=plan.pooling)
    groups = parameter_groups(trial.source, trial.head, rates=plan.rates, weight_decay=0.0)
    relative = [float(group["lr"]) / plan.rates["head"] for group in groups]
    optimizer = make_optimizer(plan.schedule, groups)
    curve: list[dict[str, float]] = []
    smooth, best, at_once = 0.0, math.inf, -(-settings.batch_size // settings.accumulate)
    frozen.train_mode()
    trial.head.train()
    if plan.schedule["norm_stats"] == "frozen":
        hold_norms(trial.source)
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with (
        exact(device),
        torch.random.fork_rng(devices=cuda),
        reporter.progress("Finding the learning rate", _STEPS, unit="steps") as bar,
    ):
        for step, batch in enumerate(own.training(train, 0, _orders(len(train.items), settings))):
            rate = _LOW * (_HIGH / _LOW) ** (step / (_STEPS - 1))
            for group, share in zip(optimizer.param_groups, relative, strict=True):
                group["lr"] = rate * share
            if not len(batch.index):
                continue  # nothing in it could be read
            torch.manual_seed(step_seed(settings.seed, 0, step))
            inputs = own.inputs(batch.images, torch.device(device))
            targets = torch.from_numpy(train.labels[batch.index]).to(device)
            slope = partial(_slope, own, inputs=inputs, targets=targets, task=task)
            losses, at_once = in_pieces(slope, torch.arange(len(inputs)), at_once)
            optimizer.step()
            smooth = 0.8 * smooth + 0.2 * sum(losses)
            value = smooth / (1 - 0.8 ** (step + 1))
            curve.append({"rate": rate, "loss": value if math.isfinite(value) else math.inf})
            best = min(best, curve[-1]["loss"])
            bar.advance(1)
            if step >= 10 and not curve[-1]["loss"] <= 3 * best:
                break
    return _pick(curve), curve


def _slope(feed: Feed, rows: Tensor, *, inputs: Tensor, targets: Tensor, task: Task) -> float:
    """Add the gradients of some rows of a batch to those of the rows before; their share of its mean loss."""
    if not int(rows[0]):  # the batch begins, perhaps anew in smaller pieces
        feed.net.zero_grad(set_to_none=True)
    with lone_images(feed.net, len(rows)):
        loss = task.loss(feed.module(inputs[rows]), targets[rows]) * (len(rows) / len(inputs))
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _orders(n: int, settings: Settings) -> list[np.ndarray]:
    """As many batches as the test has steps."""
    size = max(2, min(settings.batch_size, n))
    orders: list[np.ndarray] = []
    epoch = 1
    while len(orders) < _STEPS:
        orders += epoch_order(n, size, seed=settings.seed, epoch=epoch)
        epoch += 1
    return orders[:_STEPS]


def _pick(curve: list[dict[str, float]]) -> float:
    """A tenth of the rate with the lowest loss, leaving out the first steps, whose average is still warming up."""
    settled = curve[5:] or curve
    if not settled:
        raise DataError(
            "no training picture can be read any more, so no learning rate can be found",
            remedy="Put the pictures back.",
        )
    return min(settled, key=lambda point: point["loss"])["rate"] / 10
