"""What a report claims beyond the score, in plain words: certainty, "unknown", what would help, honesty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.report.reading import entries, interval, number, records, table, text
from headstart.report.sentences import calibration_words
from headstart.report.words import begun, count, listed, percent, plural, rate, score, signed

__all__ = [
    "certainty_words",
    "collect_words",
    "cross_validation_words",
    "forecast_words",
    "foreign_words",
    "interpolation_words",
    "issues_words",
    "kept_words",
    "limit_words",
    "mixed_words",
    "openings_words",
    "portion",
    "refused_words",
    "reject_words",
    "repeats_words",
    "share_of",
    "temperature_words",
    "twin_score_words",
    "twins_words",
]


def certainty_words(run: Mapping[str, Any]) -> str:
    """How far stated and true certainty lie apart on the test images, before and after the correction."""
    before, after = (number(run, "calibration", when, "calibration_error") for when in ("before", "after"))
    if after is None and before is None:
        return ""
    if after is None or before is None:
        return calibration_words({"calibration_error": after if before is None else before})
    moved = "from" if after != before else "at"
    words = f"On the test images, how sure it said it was and how often it was right lay {100 * before:.1f}"
    if moved == "from":
        words += f" percentage points apart on average before the correction and {100 * after:.1f} after it"
    else:
        words += " percentage points apart on average before and after the correction"
    verdict = (
        "Its stated certainty can be read as a chance"
        if after < 0.05
        else "Its stated certainty is a rough guide"
        if after <= 0.1
        else "Its stated certainty is no chance to rely on"
    )
    helped = "" if after <= before else ", although here the correction made it slightly worse"
    return f"{words}. {verdict}{helped} (calibration error {score(after)})."


def temperature_words(run: Mapping[str, Any]) -> str:
    """What the temperature did, and on what it was fitted."""
    value, items = number(run, "calibration", "temperature"), number(run, "calibration", "items")
    if value is None:
        return ""
    said = f"(temperature {rate(value)}; 1 changes nothing)"
    if abs(value - 1) < 0.02:
        did = f"Its certainty was left nearly as it was {said}."
    elif value > 1:
        did = f"It was too sure of itself, so all its probabilities were evened out {said}."
    else:
        did = f"It was too modest, so all its probabilities were sharpened {said}."
    did += " This changes no answer, only how sure it says it is."
    if items is not None:
        frozen = text(run, "plan", "strategy") in ("frozen", "")
        kept = "left out of training in turn" if frozen else "held back from training"
        did += f" The temperature was fitted on {plural(items, 'image')} that were {kept}, never on test images."
    return did


def _part(measured: Mapping[str, Any], key: str) -> tuple[float | None, float | None]:
    """A share and its number of items; a value above 1 is a number of items."""
    value, n = number(measured, key), number(measured, "n")
    if value is None or value > 1:
        return (value / n if value is not None and n else None), value
    return value, (round(value * n) if n is not None else None)


def portion(measured: Mapping[str, Any], key: str) -> str:
    """A part in words: "7 of 153 (4.6 %, plausibly 2.2 to 9.2 %)"; "" when it is missing."""
    value, many = _part(measured, key)
    n, bounds = number(measured, "n"), interval(measured, f"{key}_interval")
    if value is None:
        return ""
    told = percent(value)
    if bounds:
        told += f", plausibly {100 * bounds[0]:.1f} to {percent(bounds[1])}"
    return f"{count(many)} of {count(n)} ({told})" if n is not None else told


def share_of(measured: Mapping[str, Any], key: str) -> float | None:
    """The share of a part, whether the record holds a share or a count."""
    return _part(measured, key)[0]


def reject_words(run: Mapping[str, Any]) -> str:
    """When the model declines to answer, and how it fares then on its own test images."""
    reject = table(run, "reject")
    threshold, distance, rate_ = (number(reject, key) for key in ("threshold", "distance", "error_rate"))
    if threshold is not None and threshold > 1:
        wanted = f" of {percent(rate_)}" if rate_ is not None else ""
        return f"No threshold reaches the wanted error rate{wanted}, so it answers “unknown” to every picture."
    rules = []
    if threshold is not None and threshold > 0:
        aim = (
            f" (set so that on average at most {percent(rate_)} of its answers are wrong)" if rate_ is not None else ""
        )
        rules.append(f"its highest probability is below {score(threshold)}{aim}")
    if distance is not None:
        rules.append(f"a picture lies further than {rate(distance)} from the pictures it was trained on")
    return f"It answers “unknown” when {', or when '.join(rules)}." if rules else ""


def refused_words(run: Mapping[str, Any]) -> str:
    """How many of its own test pictures it refuses, and what that is good for."""
    held = table(run, "reject", "held_out")
    refused = portion(held, "rejected")
    if not refused:
        return ""
    return f"Of test images, which are of its own kind, it refuses {refused}."


def kept_words(run: Mapping[str, Any]) -> str:
    """What refusing does to the answers that are still given."""
    held, words = table(run, "reject", "held_out"), ""
    if (kept := number(held, "accuracy_kept")) is not None:
        bounds = interval(held, "accuracy_kept_interval")
        span = f" (plausibly {100 * bounds[0]:.1f} to {percent(bounds[1])})" if bounds else ""
        words = f"Of the test images that it does answer it gets {percent(kept)} right{span}."
    caught = number(held, "wrong_caught")
    if caught is not None:
        told = percent(caught) if caught < 1 or caught != round(caught) else count(caught)
        words += f" Refusing stops {told} of its wrong answers."
    return words.strip()


def foreign_words(run: Mapping[str, Any]) -> str:
    """How many foreign pictures it would have answered all the same."""
    rows = [row for row in records(run, "reject", "foreign") if share_of(row, "accepted") is not None]
    if not rows:
        return "It was not tried on pictures of another kind." if table(run, "reject") else ""
    told = [f"{portion(row, 'accepted')} of “{text(row, 'name') or 'foreign pictures'}”" for row in rows]
    return f"Of pictures that show none of its classes it answers {listed(told)} all the same."


def forecast_words(run: Mapping[str, Any]) -> str:
    """What the learning curve promises, in the record's own sentence or from its first row."""
    if said := text(run, "forecast", "sentence"):
        return f"{begun(said).rstrip('.')}."
    row = next(iter(records(run, "forecast", "more")), {})
    items, points, bounds = number(row, "items"), number(row, "points"), interval(row, "interval")
    if items is None or points is None:
        return ""
    words = f"{plural(items, 'more image')} would bring about {signed(points)} percentage points"
    return words + (f" ({signed(bounds[0])} to {signed(bounds[1])})." if bounds else ".")


def limit_words(run: Mapping[str, Any]) -> str:
    """Where the fitted curve levels off."""
    fit = table(run, "forecast", "fit")
    limit, scale, exponent = (number(fit, key) for key in ("limit", "scale", "exponent"))
    if limit is None:
        return ""
    words = f"The fitted curve levels off at {score(min(limit, 1.0))}: more images like these do not lift it higher."
    if scale is not None and exponent is not None:
        words += f" Its formula: accuracy = {score(limit)} − {rate(scale)} · n^−{rate(exponent)}, n training images."
    return words


def collect_words(run: Mapping[str, Any]) -> str:
    """Which class to collect first, and why."""
    name, reason = text(run, "forecast", "first", "class"), text(run, "forecast", "first", "reason")
    return (
        (f"Collect first: {name}" + (f". {reason[:1].upper()}{reason[1:].rstrip('.')}." if reason else "."))
        if name
        else ""
    )


def mixed_words(row: Mapping[str, Any]) -> str:
    """What a hard class is mostly taken for, and how often; a dash when it is nothing."""
    name, share = text(row, "confused_with"), number(row, "share")
    return (f"{name} ({percent(share)})" if share is not None else name) if name else "–"


def issues_words(run: Mapping[str, Any]) -> str:
    """How many labels look wrong, and what to do about them."""
    n = len(records(run, "label_issues"))
    if not n:
        return ""
    words = (
        f"{plural(n, 'label')} {'is' if n == 1 else 'are'} more likely wrong than right, judged by models that had not "
    )
    words += f"seen {'this picture' if n == 1 else 'these pictures; the most suspect come first'}. "
    return words + "Look at the pictures, mend what is wrong and train again; some labels will be right as they are."


def twins_words(run: Mapping[str, Any]) -> str:
    """How many near-identical pictures there are, and what they do to the score."""
    near = table(run, "near_duplicates")
    groups, across, clash = (len(entries(near, key)) for key in ("groups", "across_splits", "contradictions"))
    if not groups and not across and not clash:
        return ""
    n = max(groups, across, clash)
    words = f"{plural(n, 'group')} of near-identical pictures {'was' if n == 1 else 'were'} found"
    told = []
    if across:
        told.append(f"{count(across)} with members in more than one split")
    if clash:
        told.append(f"{count(clash)} with labels that contradict each other")
    words += f": {listed(told)}." if told else "."
    if how := text(near, "how"):
        words += f" How they were found: {how.rstrip('.')}."
    return words


def twin_score_words(run: Mapping[str, Any]) -> str:
    """Whether the score rests on test pictures with a near twin in training."""
    test = table(run, "near_duplicates", "test")
    own, rest = table(test, "with_twin"), table(test, "without_twin")
    mine, theirs = number(own, "accuracy"), number(rest, "accuracy")
    if mine is None or theirs is None:
        return ""
    n, m = number(own, "n"), number(rest, "n")
    words = (
        f"On the {plural(n, 'test image')} with a near twin in training"
        if n is not None
        else "On test images with a near twin"
    )
    words += f" it is right for {score(mine)}, on the other {count(m)} for {score(theirs)}"
    bounds = interval(rest, "accuracy_interval")
    words += f" ({score(bounds[0])} to {score(bounds[1])})." if bounds else "."
    return words + " The second figure is the one to trust."


def openings_words(run: Mapping[str, Any]) -> str:
    """How often the sealed test set was opened, when and for what."""
    if not table(run, "test_set"):
        return ""
    opened, n = records(run, "test_set", "openings"), number(run, "test_set", "n")
    if n == 0:
        return "There is no test set."
    of = f" of {plural(n, 'image')}" if n is not None else ""
    if not opened:
        return f"The test set{of} was never opened."
    if len(opened) == 1:
        when = text(opened[0], "after")
        return f"The test set{of} was opened once, for the {text(opened[0], 'for') or 'score'}" + (
            f", after {when}." if when else "."
        )
    return (
        f"The test set{of} was opened {count(len(opened))} times. Only a figure from its first opening "
        "is untouched by what was learnt from it."
    )


def cross_validation_words(run: Mapping[str, Any]) -> str:
    """The figure that stands in for a test score."""
    found = table(run, "cross_validation")
    value, n, bounds = number(found, "accuracy"), number(found, "n"), interval(found, "accuracy_interval")
    if said := text(found, "sentence"):
        return said
    if value is None:
        return ""
    words = (
        f"Cross-validation: {score(value)}"
        + (f" of {plural(n, 'image')}" if n is not None else " of the images")
        + " right"
    )
    words += f" (95 % interval {score(bounds[0])} to {score(bounds[1])})" if bounds else ""
    folds, repeats = number(found, "folds"), number(found, "repeats")
    if folds is not None:
        words += f", in {plural(folds, 'fold')}" + (
            f", {plural(repeats, 'time')}" if repeats is not None and repeats > 1 else ""
        )
    return words + "."


def repeats_words(run: Mapping[str, Any]) -> str:
    """How much the luck of the draw moves the score."""
    found = table(run, "repeats")
    n, mean, sd, low, high = (
        number(found, "n"),
        *(number(found, "accuracy", key) for key in ("mean", "sd", "min", "max")),
    )
    if n is None or mean is None:
        return ""
    words = f"The same plan was trained {plural(n, 'time')} with other random seeds: {score(mean)} on average"
    if low is not None and high is not None:
        words += f", from {score(low)} to {score(high)}"
    return words + (f" (standard deviation {score(sd)})." if sd is not None else ".")


def interpolation_words(run: Mapping[str, Any]) -> str:
    """Where between the probed and the fine-tuned weights the shipped ones lie."""
    alpha = number(run, "interpolation", "alpha")
    if alpha is None:
        return ""
    if alpha >= 1:
        return "Mixtures of the weights before and after fine-tuning were tried; the fully fine-tuned ones were best."
    if alpha <= 0:
        return (
            "Mixtures of the weights before and after fine-tuning were tried; those from before fine-tuning were best."
        )
    return (
        f"The shipped weights lie between those before fine-tuning and those after it: {percent(alpha)} of the way. "
        "Such a mixture is often right more often than either end."
    )
