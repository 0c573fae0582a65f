"""Probabilities that mean what they say: a temperature, and how far confidence and accuracy lie apart. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.judge.scoring import BINS, calibration_error, mean_log_loss

__all__ = ["before_after", "fit_temperature", "log_softmax", "reliability", "softmax", "temperature"]

Array = npt.NDArray[Any]


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: Array) -> Array:
    """Probabilities (n, k) in float64 from logits (n, k)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    chances: Array = powers / powers.sum(axis=1, keepdims=True)
    return chances


def temperature(logits: Array, y: Array) -> float:
    """The divisor of `logits` [n, k] that gives the least log loss; 1 where nothing can be learned.

    The true class counts (n + 1) / (n + 2) and the others share the rest, so that n items that are all right do not
    make the answers endlessly sure. Sources: Guo et al. 2017, "On calibration of modern neural networks", section 4.2;
    Platt 1999, "Probabilistic outputs for support vector machines", section 2.2.
    """
    spread = float(np.std(logits)) if len(y) else 0.0
    if spread == 0.0 or logits.shape[1] < 2:
        return 1.0
    true, others = (len(y) + 1) / (len(y) + 2), 1 / (len(y) + 2) / (logits.shape[1] - 1)
    scaled = logits.astype(np.float64) / spread
    scaled -= scaled.max(axis=1, keepdims=True)
    wanted = float(np.mean((true - others) * scaled[np.arange(len(y)), y] + others * scaled.sum(axis=1)))

    def slope(sureness: float) -> tuple[float, float]:
        """First and second derivative of the loss by 1 / temperature: it is convex there."""
        chances = np.exp(sureness * scaled)
        total, answers = chances.sum(axis=1), np.einsum("ij,ij->i", chances, scaled)
        np.multiply(chances, scaled, out=chances)
        squares, mean = np.einsum("ij,ij->i", chances, scaled) / total, answers / total
        return float(mean.mean()) - wanted, float((squares - np.square(mean)).mean())

    return spread / _root(slope, 1e-3, 1e3)


def _root(slope: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Where a rising function, given with its own slope, is zero between two positive ends; the end where it is not.

    Newton's method, to a thousandth of the place; where it would leave what is still possible, the geometric middle.
    """
    place = 1.0
    for _ in range(60):
        value, rise = slope(place)
        low, high = (place, high) if value < 0 else (low, place)
        step = value / rise if rise > 0 else np.inf
        after = place - step if low < place - step < high else float(np.sqrt(low * high))
        if abs(after - place) <= 1e-4 * place:
            return after
        place = after
    return place


def fit_temperature(logits: Array, y: Array) -> float:
    """The temperature for a finished classifier, from logits [n, k] of items that it had not seen (out of fold).

    It is `temperature`, but 1 where that would not lower the log loss of these very items: logits that are already log
    odds stay as they are. A positive divisor changes no label.
    """
    logits = np.asarray(logits, dtype=np.float64)
    found = temperature(logits, y)
    rows = np.arange(len(y))
    if not len(y) or not log_softmax(logits / found)[rows, y].mean() > log_softmax(logits)[rows, y].mean():
        return 1.0
    return found


def reliability(probabilities: Array, y: Array, bins: int = BINS) -> dict[str, Any]:
    """Calibration error, log loss, and in each bin the mean confidence, the accuracy and the number of items.

    Bins are equally wide, as in `scoring.calibration_error`: that number is then the one the scores show, and a bin
    means the same before and after a temperature, which would move bins of equal mass. Empty bins are left out.
    `probabilities` [n, k] against classes `y` [n]; no items give zeros.
    """
    confidence, correct = probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == y
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = [
        {"confidence": float(confidence[own].mean()), "accuracy": float(correct[own].mean()), "n": int(own.sum())}
        for own in (place == number for number in range(bins))
        if own.any()
    ]
    return {
        "calibration_error": calibration_error(correct, confidence, bins=bins),
        "log_loss": mean_log_loss(probabilities, y),
        "bins": rows,
    }


def before_after(logits: Array, y: Array, *, temperature: float, items: int) -> dict[str, Any]:
    """What a temperature, fitted on `items` other items, does to logits [n, k] of the test items `y` [n]."""
    logits = np.asarray(logits, dtype=np.float64)
    return {
        "temperature": float(temperature),
        "items": int(items),
        "before": reliability(softmax(logits), y),
        "after": reliability(softmax(logits / temperature), y),
    }
