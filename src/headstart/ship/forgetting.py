"""What an extension did to answers: those of the head before and of the head after, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.calibration import softmax
from headstart.judge.intervals import paired_bootstrap, wilson
from headstart.ship.learned import Known
from headstart.ship.recall import Recalled
from headstart.transfer.heads import FittedHead

__all__ = ["Measure"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """The heads `before` and `after`; the first `known_classes` classes are old.

    `temperature` divides the logits of `after`, and `seed` is that of the bootstrap.
    """

    before: FittedHead
    after: FittedHead
    known_classes: int
    temperature: float = 1.0
    seed: int = 0

    def forgetting(self, known: Known, found: Recalled, *, learned_now: Known, why: str = "") -> dict[str, Any]:
        """Answers on old pictures that were held out, and how many are called a new class now.

        Those without a row, or learned now, are left out; `of` counts all. Where none is left, `n` is 0 and `why` says
        for what reason, with what is known of the old data.
        """
        there = found.there & ~known.among(learned_now)
        if not len(known):
            return {"n": 0, "why": "no pictures were held out when the model was made"}
        if not there.any():
            gone = "of the pictures that the model was judged on there are neither features nor files"
            return {"n": 0, "why": f"{gone}: {why}" if why else gone}
        rows, labels = found.rows[0][there], known.labels[there]
        before, after = (head.logits(rows).argmax(axis=1) for head in (self.before, self.after))
        return {
            "n": len(labels), "of": len(known), **self._compared(before == labels, after == labels),
            "called_new": int((after >= self.known_classes).sum()),
        }  # fmt: skip

    def new_pictures(self, rows: Array, labels: Array, *, classes: Sequence[str], kind: str) -> dict[str, Any]:
        """Answers on pictures that `after` has not seen; on those of old classes beside the answers before.

        `probability` is the mean of what the answers say of themselves: near the accuracy where the temperature fits.
        """
        if not len(labels):
            return {"n": 0, "why": "the test pictures could not be read any more"}
        logits = self.after.logits(rows)
        right, n = logits.argmax(axis=1) == labels, len(labels)
        told = {
            "n": n, "kind": kind, "accuracy": float(right.mean()), "interval": list(wilson(int(right.sum()), n)),
            "probability": float(softmax(logits / self.temperature).max(axis=1).mean()),
        }  # fmt: skip
        old = labels < self.known_classes
        if old.any():
            before = self.before.logits(rows[old]).argmax(axis=1) == labels[old]
            told["known_classes"] = {"n": int(old.sum()), **self._compared(before, right[old])}
        told["per_class"] = {
            classes[c]: {"right": int(right[labels == c].sum()), "n": int((labels == c).sum())}
            for c in np.unique(labels)
        }
        return told

    def _compared(self, before: Array, after: Array) -> dict[str, Any]:
        """Two accuracies on the same pictures, and their difference with a paired interval."""
        change = paired_bootstrap(after, before, seed=self.seed)
        return {
            "accuracy_before": float(before.mean()), "accuracy_after": float(after.mean()),
            "change_points": 100 * change.value, "interval_points": [100 * change.low, 100 * change.high],
        }  # fmt: skip
