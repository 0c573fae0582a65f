"""What a report says about the choice of a way of transferring: race, ranking, advice and budget, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.report.reading import number, records, table, text, texts
from headstart.report.words import begun, count, duration, network_name, p_value, percent, plural, score

__all__ = [
    "STAGE_WORDS",
    "advice_words",
    "agreement_words",
    "best_words",
    "budget_words",
    "main_source",
    "outcome",
    "race_words",
    "raced",
    "ranking_words",
    "rule_words",
    "way",
]

STAGE_WORDS = {"probe": "a first look", "trial": "a short training", "folds": "full cross-validation"}


def raced(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates of an automatic race, best first within chosen, finalists and the rest; [] after compare."""
    rows = records(run, "race")
    if not any(text(row, "stage") or row.get("chosen") is not None for row in rows):
        return []
    named = [{**row, "source": network_name(text(row, "source"))} for row in rows]
    told = {(text(row, "source"), new["source"]) for row, new in zip(rows, named, strict=True)}
    if len({short for _, short in told}) == len({whole for whole, _ in told}):  # else only the whole address tells them
        rows = named
    return sorted(rows, key=lambda row: (_rank(row), -(number(row, "score") or 0.0)))


def main_source(run: Mapping[str, Any]) -> str:
    """The network of the chosen candidate, or of the best; "" when all have the same one or none is named."""
    rows = raced(run)
    names = [text(row, "source") for row in rows if text(row, "source")]
    return names[0] if len(set(names)) > 1 else ""


def _rank(row: Mapping[str, Any]) -> int:
    return 0 if row.get("chosen") is True else 1 if row.get("finalist") is True else 2


def way(row: Mapping[str, Any], *, source: str = "") -> str:
    """A candidate's name: strategy, where it was cut, head, and the network where it is another than `source`."""
    strategy, cut = text(row, "strategy"), text(row, "cut")
    if cut and strategy in ("partial", ""):
        strategy = f"{strategy or 'cut'} from {cut}"
    head = text(row, "head")
    network = text(row, "source") if source and text(row, "source") != source else ""
    named = [strategy, f"{head} head" if head else "", network.split(":", 1)[-1]]
    return " · ".join(filter(None, named)) or "unnamed"


def outcome(row: Mapping[str, Any]) -> str:
    """What became of a candidate."""
    if text(row, "error"):
        return f"failed: {text(row, 'error')}"
    if row.get("chosen") is True:
        return "chosen"
    if row.get("finalist") is True:
        return text(row, "stopped") or "finalist"
    return text(row, "stopped") or "went no further"


def race_words(run: Mapping[str, Any]) -> str:
    """How many ways were tried and how many got to the end."""
    rows = raced(run)
    if not rows:
        return ""
    last = [row for row in rows if _rank(row) < 2]
    early = len(rows) - len(last)
    words = f"{plural(len(rows), 'way')} of using a pretrained network {'was' if len(rows) == 1 else 'were'} tried"
    if early:
        words += f"; {count(early)} {'was' if early == 1 else 'were'} stopped early to spend the time on the rest"
    items = {number(row, "items") for row in last} - {None}
    folds = {number(row, "folds") for row in last} - {None}
    if len(items) == 1 and len(folds) == 1:
        words += (
            f". Each finalist was judged on the same {plural(items.pop() or 0, 'image')}, every one of them left out "
            f"of training in turn ({plural(folds.pop() or 0, 'fold')})"
        )
    return words + ". The test images took no part."


def rule_words(run: Mapping[str, Any]) -> str:
    """By which rule the choice was made."""
    rule = text(run, "choice", "rule")
    return f"The rule: {rule.rstrip('.')}." if rule else ""


def best_words(run: Mapping[str, Any]) -> str:
    """Which candidate had the best plain figure, where another was chosen."""
    best, chosen, p = text(run, "choice", "best"), text(run, "choice", "chosen"), number(run, "choice", "p")
    if not best or not chosen or best == chosen:
        return ""
    words = "" if text(run, "choice", "sentence") else f"{best} had the highest figure, {chosen} was chosen."
    if p is None:
        return words
    words += f" Were {best} and {chosen} equally good, luck alone would set them at least this far apart in "
    words += f"{percent(p)} of such comparisons (p = {p_value(p)})"
    return words.lstrip() + (", so the simpler one is kept." if p >= 0.05 else ", so this is hardly luck.")


def ranking_words(run: Mapping[str, Any]) -> str:
    """How the pretrained networks were ranked before the race."""
    rows = records(run, "ranking")
    if len(rows) < 2:
        return ""
    sent = sum(row.get("raced") is True for row in rows)
    first = network_name(text(rows[0], "source")) or "the first"
    words = f"{plural(len(rows), 'pretrained network')} were looked at; {first} promised most"
    return words + (f", and {count(sent)} went into the race." if sent else ".")


def advice_words(run: Mapping[str, Any]) -> str:
    """What the textbook rule says about data of this size and likeness."""
    advice = table(run, "advice")
    quadrant, strategy = text(advice, "quadrant"), text(advice, "strategy")
    if not quadrant and not strategy:
        return ""
    facts = []
    if (n := number(advice, "images_per_class")) is not None:
        facts.append(f"{plural(round(n), 'training image')} a class")
    if (similarity := number(advice, "similarity", "value")) is not None:
        facts.append(f"likeness {score(similarity)} of 1 to what the network has learnt from")
    measure = text(advice, "similarity", "measure")
    if measure and not texts(advice, "reasons"):
        facts.append(f"measured as {measure}")
    words = f"The data are {quadrant}" if quadrant else ""
    if facts:
        joined = ", ".join(facts)
        words = f"{words} ({joined})" if words else begun(joined)
    words += "." if words else ""
    if strategy:
        words += f" Before any race the rule of thumb for such data is {strategy}."
    return words.strip()


def agreement_words(run: Mapping[str, Any]) -> str:
    """Whether the race agreed with the advice."""
    advised = text(run, "advice", "strategy")
    winner = next((row for row in raced(run) if row.get("chosen") is True), {})
    chosen = text(winner, "strategy") or (text(run, "plan", "strategy") if table(run, "choice") else "")
    if not advised or not chosen:
        return ""
    if advised == chosen:
        return f"The race agreed: it chose {chosen} too."
    return f"The race did not agree: it chose {chosen}. What was measured on these images goes before a rule of thumb."


def budget_words(run: Mapping[str, Any]) -> str:
    """How much time was allowed, how much was used, and whether anything was left out for it."""
    asked, used = number(run, "budget", "asked"), number(run, "seconds", "total")
    stopped = texts(run, "budget", "stopped")
    if asked is None and not stopped:
        return ""
    words = f"{duration(asked)} were allowed" if asked is not None else "No limit of time was set"
    if used is not None:
        words += f", {duration(used)} were used"
    if asked is None and not stopped:
        return words + "."
    return words + ("; for lack of time this was stopped or left out:" if stopped else "; nothing was left out for it.")
