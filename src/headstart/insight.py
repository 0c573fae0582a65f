"""What a run tells beyond its scores: how it was chosen, what would help, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from headstart.choice.automatic import Outcome
from headstart.choice.nested import cross_validate
from headstart.data.facts import near_facts
from headstart.judge.label_issues import find_label_issues
from headstart.judge.scoring import hardest_classes
from headstart.judge.twins import split_scores
from headstart.outlook import OutOfFold, forecast, out_of_fold
from headstart.records import plain
from headstart.settings import Settings
from headstart.stages import Bench, Candidate, make_plan, train_candidate
from headstart.transfer.budget import Clock
from headstart.trusting import made_trustworthy

__all__ = ["insights"]


def insights(
    bench: Bench, chosen: Candidate, *, settings: Settings, outcome: Outcome | None, clock: Clock
) -> tuple[Candidate, dict[str, Any]]:
    """The candidate with its probabilities set right, and what run.json says beside the scores.

    `settings` are those that the candidate was trained by, `outcome` what a race decided.
    """
    told: dict[str, Any] = dict(outcome.told) if outcome is not None else {}
    if bench.judged_split == "test":
        told["test_set"] = _openings(bench, settings)
    else:
        judged = cross_validate(bench, chosen.plan, settings, heads=_raced(chosen, outcome), clock=clock)
        chosen = replace(chosen, logits={**chosen.logits, "cross_validation": judged.logits})
        told["cross_validation"] = judged.told
    seen = out_of_fold(bench, chosen, settings)
    chosen, trusted = made_trustworthy(bench, chosen, seen, settings)
    told |= trusted
    if seen is not None and chosen.plan.start == "pretrained":
        told |= _what_would_help(
            bench, chosen, seen, settings=settings, clock=clock, thorough=outcome is not None and clock.left > 0
        )  # fmt: skip
    told["near_duplicates"] = near_facts(bench.facts, test=_twins(bench, chosen))
    if chosen.interpolation is not None:
        told["interpolation"] = chosen.interpolation
    if settings.repeats > 1:
        told["repeats"] = _repeats(bench, chosen, settings)
    found: dict[str, Any] = plain(told)
    return chosen, found


def _what_would_help(
    bench: Bench, chosen: Candidate, seen: OutOfFold, *, settings: Settings, clock: Clock, thorough: bool
) -> dict[str, Any]:
    """More images, other labels, the classes that are hard."""
    classes, predicted = bench.dataset.classes, seen.logits.argmax(1)
    told: dict[str, Any] = {
        "label_issues": find_label_issues(
            seen.probabilities, seen.labels, files=[item.name for item in seen.items], classes=classes
        ),
        "hardest_classes": hardest_classes(seen.labels, predicted, classes=classes),
    }
    if clock.seconds is None or clock.used < clock.seconds:
        with bench.reporter.stage("Forecasting what more images would bring"):
            told["forecast"] = forecast(bench, chosen, seen, settings=settings, thorough=thorough)
    return told


def _twins(bench: Bench, chosen: Candidate) -> dict[str, Any] | None:
    """The test score with and without a picture in training that is the same or nearly the same."""
    facts, test = bench.facts, bench.samples("test")
    groups = [*facts.duplicates, *facts.near_duplicates]
    if not groups or not len(test.items):
        return None
    right = chosen.logits["test"].argmax(1) == test.labels
    learned = [item.name for item in bench.samples("train", "val").items]
    return split_scores(right, [item.name for item in test.items], train_names=learned, groups=groups)


def _openings(bench: Bench, settings: Settings) -> dict[str, Any]:
    """When the labels of the test items were looked at: once, or once more for the spread over seeds."""
    openings = [{"for": "final score", "after": "the plan was chosen and trained"}]
    if settings.repeats > 1:
        openings.append({"for": "spread over seeds", "after": "the final score; nothing was chosen by it"})
    return {"n": len(bench.dataset.split("test")), "openings": openings}


def _raced(chosen: Candidate, outcome: Outcome | None) -> list[str]:
    """The heads that the chosen one was chosen among."""
    rows = (outcome.told.get("race") or []) if outcome is not None else []
    heads = [row["head"] for row in rows if row["strategy"] == "frozen" and row["stopped"] is None]
    return list(dict.fromkeys(heads)) if chosen.plan.strategy == "frozen" and heads else [chosen.plan.head]


def _repeats(bench: Bench, chosen: Candidate, settings: Settings) -> dict[str, Any] | None:
    """Accuracies of the same plan with other seeds, on the same test items."""
    if bench.judged_split != "test":
        return None
    labels = bench.samples("test").labels
    found = [{"seed": settings.seed, "accuracy": _accuracy(chosen, labels)}]
    for seed in range(settings.seed + 1, settings.seed + settings.repeats):
        bench.reporter.say(f"Again with seed {seed}")
        own = settings.changed(seed=seed)
        other = replace(bench, settings=own, notes=[])
        candidate = train_candidate(other, make_plan(other, own), settings=own, folder=None)
        found.append({"seed": seed, "accuracy": _accuracy(candidate, labels)})
    values = np.array([row["accuracy"] for row in found])
    spread = {"mean": values.mean(), "sd": values.std(ddof=1), "min": values.min(), "max": values.max()}
    return {"n": len(found), "accuracy": {name: float(v) for name, v in spread.items()}, "seeds": found}


def _accuracy(candidate: Candidate, labels: np.ndarray) -> float:
    there = np.isfinite(candidate.logits["test"]).all(axis=1)
    return float((candidate.logits["test"].argmax(1) == labels)[there].mean())
