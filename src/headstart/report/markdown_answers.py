"""The answers of a report in Markdown: the choice, certainty, unknown, what would help, how honest it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report import choosing, claims
from headstart.report.markup import bullets, plain, sentence, table
from headstart.report.reading import entries, interval, number, records, text, texts
from headstart.report.words import begun, count, duration, network_name, p_value, rate, score, signed

__all__ = ["answers"]

MOST = 20


def answers(run: Mapping[str, Any]) -> list[str]:
    """The blocks of every answer that the record holds."""
    return [*_choice(run), *_sure(run), *_unknown(run), *_helps(run), *_honest(run)]


def _titled(title: str, blocks: Sequence[str]) -> list[str]:
    filled = [block for block in blocks if block]
    return [f"## {title}", *filled] if filled else []


def _said(*sentences: str) -> str:
    return sentence(" ".join(filter(None, sentences)))


def _cut(rows: Sequence[Sequence[str]]) -> tuple[Sequence[Sequence[str]], str]:
    """The first rows and a word on the others."""
    left = len(rows) - MOST
    return rows[:MOST], f"… and {count(left)} more in run.json." if left > 0 else ""


def _choice(run: Mapping[str, Any]) -> list[str]:
    network = choosing.main_source(run)
    rows, more = _cut([
        [plain(choosing.way(row, source=network)), score(number(row, "score")) + _bounds(row, "interval"),
         count(number(row, "items")), duration(number(row, "seconds")), p_value(number(row, "p_against_best")),
         plain(choosing.outcome(row))]
        for row in choosing.raced(run)
    ])  # fmt: skip
    ranking, fewer = _cut([
        [plain(network_name(text(row, "source")) or "–"), rate(number(row, "logme")), rate(number(row, "h_score")),
         "yes" if row.get("raced") is True else "no"]
        for row in records(run, "ranking")
    ])  # fmt: skip
    return _titled("Which way of transferring, and why", [
        _said(begun(text(run, "choice", "sentence")), choosing.best_words(run), choosing.rule_words(run)),
        _said(choosing.race_words(run)),
        table(["way", "right, held-out", "images", "time", "p", "outcome"], rows), more,
        _said(choosing.advice_words(run), choosing.agreement_words(run)),
        bullets([begun(line) for line in texts(run, "advice", "reasons")]),
        _said(choosing.ranking_words(run)),
        table(["network", "LogME", "H-score", "raced"], ranking if len(ranking) > 1 else []), fewer,
        _said(choosing.budget_words(run)), bullets(texts(run, "budget", "stopped")),
    ])  # fmt: skip


def _bounds(row: Mapping[str, Any], key: str) -> str:
    bounds = interval(row, key)
    return f" ({score(bounds[0])} to {score(bounds[1])})" if bounds else ""


def _sure(run: Mapping[str, Any]) -> list[str]:
    words = _said(claims.certainty_words(run), claims.temperature_words(run))
    return _titled("Can the probabilities be believed?", [words])


def _unknown(run: Mapping[str, Any]) -> list[str]:
    said = (claims.refused_words(run), claims.foreign_words(run), claims.kept_words(run), claims.reject_words(run))
    return _titled("When does it say “unknown”?", [_said(*said)])


def _helps(run: Mapping[str, Any]) -> list[str]:
    more = [
        [count(number(row, "items")), signed(number(row, "points")), _points(row)]
        for row in records(run, "forecast", "more")
    ]
    hardest = [
        [plain(text(row, "class") or "–"), count(number(row, "n")), score(number(row, "recall")),
         plain(claims.mixed_words(row))]
        for row in records(run, "hardest_classes")
    ]  # fmt: skip
    issues, left = _cut([
        [plain(text(row, key) or "–") for key in ("file", "label", "suggested")] + [score(number(row, "score"))]
        for row in records(run, "label_issues")
    ])  # fmt: skip
    clash = [" ≈ ".join(texts(group)) for group in entries(run, "near_duplicates", "contradictions")]
    across = [" ≈ ".join(texts(group)) for group in entries(run, "near_duplicates", "across_splits")]
    return _titled("What would help?", [
        _said(claims.forecast_words(run), claims.collect_words(run), claims.limit_words(run)),
        table(["more images", "points", "plausibly"], more),
        table(["hardest class", "images", "found", "mostly taken for"], hardest),
        _said(claims.issues_words(run), "All stand in label_issues.csv." if issues else ""),
        table(["file", "label", "looks like", "label wrong"], issues), left,
        _said(claims.twins_words(run), claims.twin_score_words(run)),
        *(
            block
            for title, groups in (("Labels differ:", clash), ("Over splits:", across))
            if groups
            for block in (title, bullets(groups[:MOST]))
        ),
    ])  # fmt: skip


def _points(row: Mapping[str, Any]) -> str:
    bounds = interval(row, "interval")
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else "–"


def _honest(run: Mapping[str, Any]) -> list[str]:
    said = (claims.openings_words(run), claims.cross_validation_words(run))
    luck = (claims.repeats_words(run), claims.interpolation_words(run))
    return _titled("How honest is this?", [_said(*said), _said(*luck)])
