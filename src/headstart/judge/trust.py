"""Temperature and reject option of a run, fitted and measured together. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.calibration import fit_temperature, softmax
from headstart.judge.intervals import wilson
from headstart.judge.reject import Reject

__all__ = ["fit_trust", "measure_reject", "refusals"]

Array = npt.NDArray[Any]


def fit_trust(
    logits: Array,
    y: Array,
    *,
    features: Array | None = None,
    error_rate: float | None = None,
    reference: tuple[Array, Array] | None = None,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> tuple[float, Reject | None]:
    """Temperature and reject option from out-of-fold logits [n, k] and features [n, d] of items of classes `y` [n].

    For frozen features: the head's `oof` logits, and the features of the same items. For a fine-tuned network: logits
    and features of validation items, and as `reference` (features, classes) those of the training items. Without
    `error_rate` or features there is no reject option. The rest is told at `Reject.fit`.
    """
    temperature = fit_temperature(logits, y)
    if error_rate is None or features is None:
        return temperature, None
    chances = softmax(np.asarray(logits, dtype=np.float64) / temperature)
    reject = Reject.fit(
        chances, y, features=features, error_rate=error_rate, reference=reference, groups=groups, seed=seed
    )
    return temperature, reject


def measure_reject(
    reject: Reject,
    probabilities: Array,
    *,
    y: Array,
    features: Array,
    foreign: Mapping[str, tuple[Array, Array]] | None = None,
) -> dict[str, Any]:
    """The `reject` part of run.json: what is refused of the test items, and of foreign ones (probabilities, features).

    `held_out` is that of `refusals`; `accepted` is a share of n.
    """
    return {
        **reject.facts(),
        "held_out": refusals(reject.accepts(probabilities, features), probabilities.argmax(axis=1) == y),
        "foreign": [_foreign(name, reject.accepts(*rows)) for name, rows in (foreign or {}).items()],
    }


def refusals(kept: Array, right: Array) -> dict[str, Any]:
    """What refusing does to answers, of which `kept` [n] were given and `right` [n] are, or would have been, right.

    `rejected` is a share of n, `accuracy_kept` that of the answers given (None where none is), and `wrong_caught` the
    share of the wrong answers that were refused (None where none is wrong).
    """
    n, answers, wrong = len(kept), int(kept.sum()), int((~right).sum())
    hits, refused = int((kept & right).sum()), n - answers
    return {
        "n": n,
        "rejected": refused / n if n else 0.0,
        "rejected_interval": wilson(refused, n),
        "accuracy_kept": hits / answers if answers else None,
        "accuracy_kept_interval": wilson(hits, answers),
        "wrong_caught": int((~kept & ~right).sum()) / wrong if wrong else None,
    }


def _foreign(name: str, accepted: Array) -> dict[str, Any]:
    n, count = len(accepted), int(accepted.sum())
    return {
        "name": name,
        "n": n,
        "accepted": count / n if n else 0.0,
        "accepted_interval": wilson(count, n),
    }
