"""Does the model overfit, underfit or neither? Said in words, with the figures and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.judge.intervals import difference
from headstart.records import Interval, Scores

__all__ = ["diagnose"]

_GAP = 0.05  # a smaller gap between training and validation accuracy harms nobody
_TURN = 0.05  # share by which the validation loss must have risen above its least value
_SLOPE = 0.01  # accuracy still won over the last part of a curve that is worth going on for

_OVERFIT = [
    "Get more labelled items: the gap closes with data before anything else",
    "Augment the training images more strongly",
    "Regularise more: a larger weight decay, a stronger penalty of the head, label smoothing or mixup",
    "Freeze more blocks, or train the head alone",  # the last: it is left out where only the head is trained
]
_UNDERFIT = [
    "Train more of the network: a cut nearer to the input, or all of it",
    "Take a larger source, or one pretrained on data nearer to yours",
    "Regularise less: a smaller weight decay, a weaker penalty of the head, milder augmentation",
]


def diagnose(
    points: Sequence[Mapping[str, Any]],
    *,
    train: Scores | None = None,
    val: Scores | None = None,
    majority: float = 0.0,
    axis: str = "epochs",
    frozen: bool = False,
) -> dict[str, Any]:
    """Say whether a model overfits, underfits or neither, in one sentence, with advice.

    `points` {x, train_accuracy, val_accuracy, train_loss, val_loss} of a curve over `axis` ("epochs" or "training
    items"), may be empty; `train` and `val` the scores of the final model; `majority` the accuracy of always
    answering the commonest class; `frozen` says that only a head was trained. It overfits when training accuracy is
    above validation accuracy by 5 points or more and the 95 % interval of that gap (Newcombe, independent items)
    excludes 0; it underfits when it does not overfit and training accuracy is less than half way from the majority
    baseline to 1, or validation accuracy is not above that baseline. Without `train` and `val` the last point of the
    curve stands in, and the gap has no interval.
    Gives {verdict, sentence, advice, gap, gap_interval}; gap and interval are shares, None where unknown.
    """
    last = points[-1] if points else {}
    fitted = train.accuracy if train is not None and train.n else last.get("train_accuracy")
    held = val.accuracy if val is not None and val.n else last.get("val_accuracy")
    if fitted is None or held is None:
        return _answer(
            "neither", "There is no training and validation accuracy to tell over- from underfitting", [], None
        )
    gap = _gap(float(fitted), float(held), train, val)
    figures = _figures(float(fitted), float(held), train, val)
    certain = gap.low > 0 and gap.value >= _GAP
    if certain:
        sentence = f"It overfits: {figures}; the gap of {_points(gap)} is more than chance"
        return _answer(
            "overfits", sentence + _turned(points, axis), _more(points, axis) + _OVERFIT[: -1 if frozen else None], gap
        )
    poor = _poor(float(fitted), float(held), val, majority)
    if poor:
        sentence = f"It underfits: {figures}, and {poor}"
        return _answer("underfits", sentence, _more(points, axis) + _UNDERFIT, gap)
    known = gap.high > gap.low
    why = "within chance" if known and gap.low <= 0 <= gap.high else "too small to matter"
    sentence = f"It neither overfits nor underfits: {figures}; the gap of {_points(gap)} is {why}"
    return _answer("neither", sentence + _turned(points, axis), _more(points, axis), gap)


def _answer(verdict: str, sentence: str, advice: list[str], gap: Interval | None) -> dict[str, Any]:
    known = gap is not None and gap.high > gap.low
    return {
        "verdict": verdict,
        "sentence": sentence + ".",
        "advice": [line + "." for line in advice],
        "gap": gap.value if gap else None,
        "gap_interval": [gap.low, gap.high] if gap and known else None,
    }


def _gap(fitted: float, held: float, train: Scores | None, val: Scores | None) -> Interval:
    """Training less validation accuracy; without numbers of items the interval is the value itself."""
    if train is None or val is None or not train.n or not val.n:
        return Interval(fitted - held, fitted - held, fitted - held)
    return difference(round(fitted * train.n), train.n, round(held * val.n), val.n)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _figures(fitted: float, held: float, train: Scores | None, val: Scores | None) -> str:
    """The two accuracies, with their numbers of items where known."""
    of_train = f"{train.n} " if train is not None and train.n else ""
    of_val = f"{val.n} " if val is not None and val.n else ""
    return (
        f"{_percent(fitted)} of the {of_train}training and {_percent(held)} of the {of_val}validation items are right"
    )


def _points(gap: Interval) -> str:
    text = f"{100 * gap.value:.1f} points"
    if gap.high > gap.low:
        text += f" (95 % interval {100 * gap.low:.1f} to {100 * gap.high:.1f})"
    return text


def _poor(fitted: float, held: float, val: Scores | None, majority: float) -> str:
    """Why the fit is poor, or an empty string."""
    if fitted < 0.5 * (1.0 + majority):
        return f"even on the training items that is far from right (always the commonest class: {_percent(majority)})"
    low = val.accuracy_interval[0] if val is not None and val.n else held
    if low <= majority:
        return f"this is not surely above always answering the commonest class ({_percent(majority)})"
    return ""


def _losses(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(float(p["x"]), float(p["val_loss"])) for p in points if p.get("val_loss") is not None]


def _turned(points: Sequence[Mapping[str, Any]], axis: str) -> str:
    """Says when the validation loss has turned upwards during training."""
    losses = _losses(points)
    if axis != "epochs" or len(losses) < 3:
        return ""
    best_x, best = min(losses, key=lambda point: point[1])
    if losses[-1][1] <= best * (1 + _TURN):
        return ""
    last = losses[-1][1]
    return f"; more epochs overfit: the validation loss rises from {best:.3f} at epoch {best_x:g} to {last:.3f}"


def _more(points: Sequence[Mapping[str, Any]], axis: str) -> list[str]:
    """Advice from the end of the curve: is more of the same still worth something?"""
    curve = [p for p in points if p.get("val_accuracy") is not None]
    if len(curve) < 3:
        return []
    if axis == "epochs":
        losses = _losses(points)
        if len(losses) >= 3 and losses[-1][1] == min(loss for _, loss in losses) < losses[-3][1] * (1 - _SLOPE):
            return ["Train for more epochs: the validation loss was still falling at the last one"]
        if _turned(points, axis):
            best_x = min(losses, key=lambda point: point[1])[0]
            return [f"Stop earlier: the validation loss was least at epoch {best_x:g}"]
        return []
    half = min(curve, key=lambda p: abs(float(p["x"]) - 0.5 * float(curve[-1]["x"])))
    won = float(curve[-1]["val_accuracy"]) - float(half["val_accuracy"])
    if won < _SLOPE:
        return []
    return [
        f"Label more items: going from {half['x']:g} to {curve[-1]['x']:g} training items won {100 * won:.1f} points "
        "on the validation items, and the curve is still rising"
    ]
