"""What a report says in plain words: each function turns a part of a run's record into sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from headstart.report.reading import entries, interval, number, records, table, text
from headstart.report.words import count, listed, plural, rate, score, signed

__all__ = [
    "STRATEGY_WORDS",
    "Gain",
    "Headline",
    "baseline_words",
    "calibration_words",
    "data_words",
    "done_words",
    "gain",
    "gain_words",
    "headline",
    "trust",
]

STRATEGY_WORDS = {
    "frozen": "The pretrained network was kept as it is and only a new head was trained on its features",
    "partial": "The lower blocks of the network were kept as they are; the upper ones and a head were trained",
    "discriminative": "The whole network was trained further, slowly near the input and faster towards the head",
    "full": "The whole pretrained network was trained further, all of it at one rate",
    "scratch": "The network was trained from random weights, without any pretraining",
}


class Headline(NamedTuple):
    """The first thing a reader wants to know; `judged`: the figure comes from a sealed test set."""

    title: str
    plain: str
    figures: str
    value: float | None
    bounds: tuple[float, float] | None
    judged: bool


class Gain(NamedTuple):
    """Test accuracy minus that of the same network from scratch, in percentage points."""

    points: float
    bounds: tuple[float, float] | None


def _classes(run: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in entries(run, "data", "classes")]


def headline(run: Mapping[str, Any]) -> Headline:
    """What was built and how good it is."""
    classes, source = _classes(run), text(run, "source", "architecture") or text(run, "source", "address")
    told = (
        listed(classes) if 0 < len(classes) <= 4 else plural(len(classes), "class", "classes") if classes else "images"
    )
    title = f"A classifier of {told}"
    on = f", built on {source}" if source else ""
    name = next((key for key in ("test", "val", "train") if number(run, "scores", key, "accuracy") is not None), "")
    if name != "test" and number(run, "cross_validation", "accuracy") is not None:
        name, measured = "cross-validated", table(run, "cross_validation")
    elif not name:
        return Headline(title, f"This run holds no scores yet{on}.", "", None, None, False)
    else:
        measured = table(run, "scores", name)
    value, bounds, n = number(measured, "accuracy"), interval(measured, "accuracy_interval"), number(measured, "n")
    kind = {"test": "sealed test", "val": "validation", "train": "training"}.get(name, name)
    figures = score(value) + (f" of {plural(n, f'{kind} image')}" if n else f" of the {kind} images") + " right"
    if bounds:
        figures += f" (95 % interval {score(bounds[0])} to {score(bounds[1])})"
    majority = number(run, "baselines", "majority", "accuracy")
    if majority is not None:
        figures += f", majority {score(majority)}"
    right = (
        f"{count(round((value or 0) * n))} of {plural(n, 'image')}"
        if n
        else f"{100 * (value or 0):.1f} % of the images"
    )
    seen = (
        "that it had never seen"
        if name == "test"
        else "that were left out of training in turn"
        if name == "cross-validated"
        else "of the validation set"
        if name == "val"
        else "it was trained on"
    )
    plain = f"The model{on + ',' if on else ''} gives the right answer for {right} {seen}."
    return Headline(title, plain, figures + ".", value, bounds, name == "test")


def trust(run: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Can I trust this? A short answer and the reasons for it, doubts first."""
    head = headline(run)
    doubts, goods = _doubts(run, head), _goods(run, head)
    if head.value is None:
        return "There is nothing to trust yet.", []
    majority = number(run, "baselines", "majority", "accuracy")
    if majority is not None and (head.bounds or (head.value, 0))[0] <= majority:
        return (
            "Not yet: the model is not shown to be better than always giving the most frequent answer.",
            doubts + goods,
        )
    if not head.judged and "cross-validated" in head.figures:
        answer = (
            "With care: there is no sealed test set. Every image was judged by a model that had not seen it, but the"
        )
        return f"{answer} plan was chosen by these same figures.", doubts + goods
    if not head.judged:
        return "Not yet: there is no sealed test set, so this figure may flatter the model.", doubts + goods
    if doubts:
        return "With care: the figure is honest for this test set, but read the doubts below.", doubts + goods
    return "Yes, for pictures like these.", goods


def _doubts(run: Mapping[str, Any], head: Headline) -> list[str]:
    found = []
    leaks, clashes = len(entries(run, "data", "leaks")), len(entries(run, "data", "contradictions"))
    if leaks:
        found.append(
            f"{plural(leaks, 'group')} of identical pictures "
            f"{'stands' if leaks == 1 else 'stand'} in more than one split, so scores may be too high."
        )
    if clashes:
        found.append(
            f"{plural(clashes, 'group')} of identical pictures "
            f"{'carries' if clashes == 1 else 'carry'} different labels; at least one of each is wrong."
        )
    if head.bounds and head.bounds[1] - head.bounds[0] > 0.15:
        found.append(
            f"The test set is small: the true share of right answers may lie anywhere from {score(head.bounds[0])} to "
            f"{score(head.bounds[1])}. More test images would narrow this."
        )
    if text(run, "diagnosis", "verdict") == "overfits":
        found.append("The model knows its training images better than new ones (it overfits; see the learning curves).")
    sizes = {name: number(row, "n") for name, row in table(run, "scores", "test", "per_class").items()}
    thin = [name for name, n in sizes.items() if n is not None and n < 10]
    if thin:
        found.append(f"Fewer than ten test images of {listed(thin)}: the figures of single classes are rough.")
    found += _doubts_of_answers(run)
    error = number(run, "scores", "test", "calibration_error")
    if error is not None and error > 0.1:
        found.append(f"Its stated certainty is off by {100 * error:.0f} percentage points on average; it is no chance.")
    return found


def _doubts_of_answers(run: Mapping[str, Any]) -> list[str]:
    """What the audit of twins and the record of openings say against the score."""
    found = []
    twins = len(entries(run, "near_duplicates", "across_splits"))
    if twins:
        verb = "stands" if twins == 1 else "stand"
        doubt = f"{plural(twins, 'group')} of near-identical pictures {verb} in more than one split"
        rest = number(run, "near_duplicates", "test", "without_twin", "accuracy")
        found.append(doubt + (f"; without them the score is {score(rest)}." if rest is not None else "."))
    opened = len(entries(run, "test_set", "openings"))
    if opened > 1:
        found.append(f"The test set was opened {count(opened)} times; later looks may have guided choices.")
    return found


def _goods(run: Mapping[str, Any], head: Headline) -> list[str]:
    found = []
    if head.judged:
        found.append("The test images were sealed: no choice of network, head or setting has seen them.")
    majority = number(run, "baselines", "majority", "accuracy")
    if majority is not None and head.bounds and head.bounds[0] > majority:
        found.append(
            f"Even the lower end of the interval ({score(head.bounds[0])}) is above always giving the most frequent "
            f"answer ({score(majority)})."
        )
    found.append(
        "The figure holds for new pictures that are taken like these; other cameras, places or "
        "seasons need a test of their own."
    )
    return found


def data_words(run: Mapping[str, Any]) -> str:
    """How many items of how many classes, in which splits."""
    classes = _classes(run)
    sizes = {name: number(row, "n") for name, row in table(run, "data", "splits").items()}
    total = sum(size for size in sizes.values() if size)
    if not total:
        return f"{plural(len(classes), 'class', 'classes')}." if classes else "The record says nothing about the data."
    words = {"train": "for training", "val": "for choosing", "test": "sealed for the final score"}
    split = listed(
        [f"{count(n)} {words.get(name, f'in {name}' if name else 'not yet split')}" for name, n in sizes.items() if n]
    )
    kinds = f" of {plural(len(classes), 'class', 'classes')}" if classes else ""
    sentence = f"{plural(total, 'image')}{kinds}: {split}."
    imbalance = number(run, "data", "imbalance")
    if imbalance is not None and imbalance >= 1:
        even = (
            "The classes are about equally large"
            if imbalance < 1.5
            else f"The largest class has {rate(round(imbalance, 1))} times as many training images as the smallest"
        )
        sentence += f" {even}."
    return sentence


def done_words(run: Mapping[str, Any]) -> str:
    """Which strategy was followed, in one or two sentences."""
    plan = table(run, "plan")
    strategy = text(plan, "strategy")
    if not strategy:
        return ""
    sentence = STRATEGY_WORDS.get(strategy, f"The strategy was {strategy}") + "."
    trained, whole = number(plan, "trained_parameters"), number(run, "source", "parameters")
    if trained is not None:
        of = ""
        if whole and whole >= trained:
            share = 100 * trained / whole
            of = f", against {count(whole)} in the network ({f'{share:.0f}' if share >= 10 else f'{share:.2g}'} %)"
        sentence += f" {plural(trained, 'number')} {'was' if trained == 1 else 'were'} trained{of}."
    return sentence


def calibration_words(measured: Mapping[str, Any]) -> str:
    """What the calibration error means."""
    error = number(measured, "calibration_error")
    if error is None:
        return ""
    verdict = (
        "can be read as a chance" if error < 0.05 else "is a rough guide" if error <= 0.1 else "is no chance to rely on"
    )
    return (
        f"When the model says how sure it is, it is off by {100 * error:.1f} percentage points on average "
        f"(calibration error {score(error)}): its stated certainty {verdict}."
    )


def baseline_words(run: Mapping[str, Any]) -> str:
    """What the majority baseline is."""
    majority = table(run, "baselines", "majority")
    value, name = number(majority, "accuracy"), text(majority, "class")
    if value is None:
        return ""
    said = f"“{name}”, the most frequent class," if name else "the most frequent class"
    return f"Always answering {said} would be right for {score(value)} of the test images."


def gain(run: Mapping[str, Any]) -> Gain | None:
    """The gain over the same network trained from scratch, in percentage points whichever way the record holds it.

    A record may hold a difference of shares (0.28) or percentage points (28); the scores decide which it is.
    """
    points, bounds = number(run, "gain_over_scratch", "points"), interval(run, "gain_over_scratch", "interval")
    if points is None:
        return None
    ours, theirs = number(run, "scores", "test", "accuracy"), number(run, "baselines", "scratch", "accuracy")
    if ours is not None and theirs is not None:
        share = abs(points - (ours - theirs)) <= abs(points / 100 - (ours - theirs))
    else:
        share = max(abs(value) for value in (points, *(bounds or ()))) <= 1
    factor = 100 if share else 1
    return Gain(points * factor, (bounds[0] * factor, bounds[1] * factor) if bounds else None)


def gain_words(run: Mapping[str, Any]) -> str:
    """What pretraining brought."""
    found = gain(run)
    if found is None:
        return ""
    points, bounds = found
    more = "more" if points >= 0 else "fewer"
    sentence = (
        f"The head start: of every hundred test images the model names {abs(points):.1f} {more} correctly than the "
        f"same network trained from scratch on the same data"
    )
    if not bounds:
        return sentence + "."
    sentence += f" (95 % interval {signed(bounds[0])} to {signed(bounds[1])} percentage points)."
    if bounds[0] <= 0 <= bounds[1]:
        sentence += " The interval holds zero, so this difference may be chance."
    return sentence


def log_loss_of_guessing(run: Mapping[str, Any]) -> float | None:
    """The log loss of giving every class the same probability."""
    classes = len(_classes(run))
    return math.log(classes) if classes > 1 else None


def failed(run: Mapping[str, Any]) -> list[str]:
    """The strategies of the race that ended in an error."""
    return [text(row, "strategy") for row in records(run, "race") if text(row, "error")]
