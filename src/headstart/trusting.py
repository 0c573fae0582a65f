"""Probabilities that mean something: the temperature, the reject option, and what both do on items nobody has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart.data import augment, read
from headstart.data.loader import Views, batches
from headstart.errors import DataError
from headstart.judge.calibration import before_after, softmax
from headstart.judge.trust import fit_trust, measure_reject
from headstart.outlook import OutOfFold
from headstart.settings import Settings
from headstart.stages import Bench, Candidate, groups_of
from headstart.transfer.net import TransferNet
from headstart.transfer.precision import exact
from headstart.transfer.steps import Samples

__all__ = ["answers", "made_trustworthy"]

Rows = tuple[np.ndarray, np.ndarray]
_BATCH = 64  # pictures that are computed together


def made_trustworthy(
    bench: Bench, chosen: Candidate, found: OutOfFold | None, settings: Settings
) -> tuple[Candidate, dict[str, Any]]:
    """The candidate with its temperature and reject option, its logits divided, and what run.json tells of both.

    Both are fitted on answers that did not see the item: out of fold for a head on frozen features, else on the
    validation items. Measured on the judged items.
    """
    own = found if found is not None and found.own else None
    if own is not None:
        logits, labels = own.logits, own.labels
    else:
        logits, labels = chosen.logits["val"], bench.samples("val").labels
    if not len(labels):
        return chosen, {}
    temperature, reject = fit_trust(
        logits, labels, error_rate=settings.error_rate, seed=settings.seed,
        **(_features(bench, chosen, own) if settings.error_rate is not None else {}),
    )  # fmt: skip
    split = bench.judged_split
    y, before = bench.samples(split).labels, chosen.logits[split]
    there = np.isfinite(before).all(axis=1)
    told: dict[str, Any] = {
        "calibration": before_after(before[there], y[there], temperature=temperature, items=len(labels))
    }
    divided = {name: rows / np.float32(temperature) for name, rows in chosen.logits.items()}
    chosen = replace(chosen, logits=divided, temperature=temperature, reject=reject)
    if reject is not None and split == "test":
        _, features = _rows(bench, chosen, "test")
        told["reject"] = measure_reject(
            reject, softmax(divided["test"].astype(np.float64)), y=y, features=features,
            foreign=_foreign(bench, chosen, settings),
        )  # fmt: skip
    elif reject is not None:
        told["reject"] = reject.facts()
    return chosen, told


def _features(bench: Bench, chosen: Candidate, own: OutOfFold | None) -> dict[str, Any]:
    """The features, groups and reference that `fit_trust` asks for."""
    if own is not None:
        return {"features": bench.features(chosen.plan.pooling, *own.splits), "groups": groups_of(bench, *own.splits)}
    (_, train), (_, val) = _rows(bench, chosen, "train"), _rows(bench, chosen, "val")
    return {"features": val, "groups": groups_of(bench, "val"), "reference": (train, bench.samples("train").labels)}


def _rows(bench: Bench, chosen: Candidate, split: str) -> Rows:
    """Logits and the network's own pooled features of a split."""
    if chosen.plan.strategy == "frozen":
        return chosen.logits[split], bench.features(chosen.plan.pooling, split)
    return answers(bench, chosen.net, bench.samples(split))


def answers(bench: Bench, net: TransferNet, samples: Samples) -> Rows:
    """Logits (n, classes) and pooled features (n, d) of the centre views, rows of NaN for what cannot be read.

    They are computed on the bench's device; the network comes back to the processor.
    """
    items, device = samples.items, bench.device
    order = [np.arange(start, min(start + _BATCH, len(items))) for start in range(0, len(items), _BATCH)]
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    net.eval().to(device=device)
    with torch.inference_mode(), exact(device):
        for batch in batches(Views(items, net.source.card, hashes=samples.hashes), order):
            if not len(batch.index):
                continue
            images = augment.normalise(batch.images.to(device), net.source.card)
            inputs = images.contiguous(memory_format=torch.channels_last)
            logits, features = (part.float().cpu().numpy() for part in net.both(inputs))
            found.update({int(i): (logits[n], features[n]) for n, i in enumerate(batch.index)})
    net.to(device="cpu")
    if not found:
        raise DataError("none of the pictures could be read", remedy="Look at them with `headstart inspect`.")
    blank = tuple(np.full_like(part, np.nan) for part in next(iter(found.values())))
    rows = [found.get(i, blank) for i in range(len(items))]
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def _foreign(bench: Bench, chosen: Candidate, settings: Settings) -> dict[str, Rows]:
    """Probabilities and features of pictures that are of no class."""
    if settings.foreign is None:
        return {}
    place = Path(settings.foreign).expanduser()
    with bench.reporter.stage(f"Looking at {place.name}, which is of no class"):
        items = read.find_images([place])
        logits, features = answers(bench, chosen.net, Samples(tuple(items), np.full(len(items), -1)))
    there = np.isfinite(logits).all(axis=1)
    chances = softmax(logits[there].astype(np.float64) / chosen.temperature)
    name = "/".join(place.resolve().parts[-2:]) if place.name in ("train", "val", "test") else place.name
    return {name: (chances, features[there])}
