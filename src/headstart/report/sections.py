"""The values of the sections that answer a reader's questions; a section without anything to say is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from headstart.report import choosing, claims, evidence
from headstart.report.reading import entries, interval, number, records, table, text, texts
from headstart.report.sentences import STRATEGY_WORDS
from headstart.report.svg import meter
from headstart.report.words import begun, count, duration, network_name, p_value, percent, plural, rate, score, signed

__all__ = ["choice", "helps", "honest", "sure", "unknown"]

MOST_ROWS = 50
Cell = tuple[str, str]


def _cut(rows: Sequence[Any], most: int = MOST_ROWS) -> dict[str, Any]:
    """The first rows, and how many more there are."""
    return {"rows": list(rows[:most]), "n": len(rows), "more": max(len(rows) - most, 0)}


def _some(section: dict[str, Any]) -> dict[str, Any]:
    """The section, or nothing when nothing in it is filled."""
    return section if any(value["n"] if isinstance(value, dict) else value for value in section.values()) else {}


def _span(measured: Mapping[str, Any], key: str) -> str:
    bounds = interval(measured, key)
    return f"{score(bounds[0])} to {score(bounds[1])}" if bounds else ""


def choice(run: Mapping[str, Any]) -> dict[str, Any]:
    """Which way of transferring, and why."""
    chart, undrawn = evidence.race_forest(run)
    rows, network = choosing.raced(run), choosing.main_source(run)
    ranking = [
        (network_name(text(row, "source")) or "–", rate(number(row, "logme")), rate(number(row, "h_score")),
         count(number(row, "items")), duration(number(row, "seconds")), "yes" if row.get("raced") is True else "no")
        for row in records(run, "ranking")
    ]  # fmt: skip
    return _some({
        "sentence": begun(text(run, "choice", "sentence")),
        "best": choosing.best_words(run),
        "rule": choosing.rule_words(run),
        "race": choosing.race_words(run),
        "words": [pair for pair in STRATEGY_WORDS.items() if any(row.get("strategy") == pair[0] for row in rows)],
        "chart": Markup(chart),
        "undrawn": undrawn,
        "rows": _cut([_candidate(row, network) for row in rows]),
        "network": network,
        "ranking": _cut(ranking),
        "ranked": choosing.ranking_words(run),
        "advice": choosing.advice_words(run),
        "quadrant": Markup(evidence.advice_plot(run)),
        "agreement": choosing.agreement_words(run),
        "reasons": [begun(line) for line in texts(run, "advice", "reasons")],
        "would_change": [begun(line) for line in texts(run, "advice", "would_change")],
        "budget": choosing.budget_words(run),
        "stopped": texts(run, "budget", "stopped"),
    })  # fmt: skip


def _candidate(row: Mapping[str, Any], network: str) -> dict[str, Any]:
    stage = text(row, "stage")
    folds = number(row, "folds")
    judged = count(number(row, "items")) if number(row, "items") is not None else "–"
    return {
        "name": choosing.way(row, source=network),
        "chosen": row.get("chosen") is True,
        "cells": [
            (score(number(row, "score")), _span(row, "interval")),
            (score(number(row, "log_loss")), ""),
            (judged, plural(folds, "fold") if folds is not None else ""),
            (count(number(row, "trained_parameters")), ""),
            (duration(number(row, "seconds")), ""),
            (p_value(number(row, "p_against_best")), ""),
        ],
        "stage": choosing.STAGE_WORDS.get(stage, stage),
        "outcome": choosing.outcome(row),
    }


def sure(run: Mapping[str, Any]) -> dict[str, Any]:
    """Can the probabilities be believed."""
    tables = []
    for when, title in (("before", "Before the correction"), ("after", "After it")):
        found = evidence.bins(table(run, "calibration", when))
        if found:
            tables.append((title, [(score(one.said), score(one.right), count(one.n)) for one in found]))
    losses = [number(run, "calibration", when, "log_loss") for when in ("before", "after")]
    loss = ""
    if losses[0] is not None and losses[1] is not None:
        loss = f"Log loss, which punishes sure and wrong answers, went from {score(losses[0])} to {score(losses[1])}."
    return _some({
        "words": claims.certainty_words(run),
        "temperature": claims.temperature_words(run),
        "loss": loss,
        "charts": [(caption, Markup(chart)) for caption, chart in evidence.reliability_plots(run)],
        "tables": tables,
    })  # fmt: skip


def unknown(run: Mapping[str, Any]) -> dict[str, Any]:
    """When the model says "unknown"."""
    foreign = [
        (text(row, "name") or "–",
         count(number(row, "n")), percent(claims.share_of(row, "accepted")), _percents(row, "accepted_interval"))
        for row in records(run, "reject", "foreign")
    ]  # fmt: skip
    return _some({
        "rule": claims.reject_words(run),
        "own": claims.refused_words(run),
        "foreign": claims.foreign_words(run),
        "kept": claims.kept_words(run),
        "chart": Markup(evidence.unknown_bars(run)),
        "rows": _cut(foreign),
    })  # fmt: skip


def _percents(measured: Mapping[str, Any], key: str) -> str:
    bounds = interval(measured, key)
    return f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else "–"


def helps(run: Mapping[str, Any], suspects: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What would help: more images, of which class, labels to mend, pictures to take out."""
    more = [
        (f"{count(number(row, 'items'))} more",
         f"{signed(number(row, 'points'))} points", _points(row))
        for row in records(run, "forecast", "more")
    ]  # fmt: skip
    issues = [
        (text(row, "file") or "–", text(row, "label") or "–", text(row, "suggested") or "–",
         score(number(row, "p_label")), score(number(row, "p_suggested")), score(number(row, "score")))
        for row in records(run, "label_issues")
    ]  # fmt: skip
    hardest = [_hard(row) for row in records(run, "hardest_classes")]
    near = table(run, "near_duplicates")
    groups = [
        {"title": title, "words": words, **_cut(members)}
        for key, title, words in _NEAR
        if (members := [texts(group) for group in entries(near, key) if texts(group)])
    ]
    found = _some({
        "sentence": claims.forecast_words(run),
        "collect": claims.collect_words(run),
        "chart": Markup(evidence.forecast_plot(run)),
        "limit": claims.limit_words(run),
        "more": more,
        "seeds": _seeds(run),
        "hardest": hardest,
        "issues": claims.issues_words(run),
        "suspects": list(suspects),
        "listed": _cut(issues),
        "twins": claims.twins_words(run),
        "twin_score": claims.twin_score_words(run),
        "twin_chart": Markup(evidence.twin_plot(run)),
        "groups": groups,
    })  # fmt: skip
    return {**found, "advice": texts(run, "diagnosis", "advice")} if found else {}


_NEAR = (
    (
        "contradictions",
        "Near-identical, labels differ",
        "Near-identical, different labels: at least one of them is wrong.",
    ),
    (
        "across_splits",
        "Near-identical over splits",
        "Near-identical over splits: training may have met a test image's twin.",
    ),
    (
        "groups",
        "All groups of near-identical pictures",
        "The pictures of a group show one and the same thing: together they count more than they should.",
    ),
)


def _points(row: Mapping[str, Any]) -> str:
    bounds = interval(row, "interval")
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else "–"


def _seeds(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The measured points of the learning curve."""
    rows: list[tuple[str, ...]] = []
    for row in records(run, "forecast", "points"):
        low, high = number(row, "low"), number(row, "high")
        spread = f"{score(low)} to {score(high)}" if low is not None and high is not None else "–"
        rows.append((count(number(row, "n")), score(number(row, "accuracy")), spread, count(number(row, "seeds"))))
    return rows


def _hard(row: Mapping[str, Any]) -> dict[str, Any]:
    recall = number(row, "recall")
    return {
        "name": text(row, "class") or "–",
        "n": count(number(row, "n")),
        "recall": (score(recall), Markup(meter(recall))),
        "mixed": claims.mixed_words(row),
    }


def honest(run: Mapping[str, Any]) -> dict[str, Any]:
    """How honest is this: what the test set was used for, what stands in for it, how much is luck."""
    tried = [
        (rate(number(row, "alpha")), score(number(row, "accuracy")), score(number(row, "log_loss")))
        for row in records(run, "interpolation", "tried")
    ]
    seeds = [
        (text(row, "seed") or "–", score(number(row, "accuracy"))) for row in records(run, "repeats", "seeds")
    ]  # fmt: skip
    opened = [(text(row, "for") or "–", text(row, "after") or "–") for row in records(run, "test_set", "openings")]
    return _some({
        "openings": claims.openings_words(run),
        "opened": _cut(opened) if len(opened) > 1 else _cut([]),
        "cross_validation": claims.cross_validation_words(run),
        "repeats": claims.repeats_words(run),
        "chart": Markup(evidence.repeats_strip(run)),
        "seeds": _cut(seeds),
        "interpolation": claims.interpolation_words(run),
        "tried": _cut(tried),
    })  # fmt: skip
