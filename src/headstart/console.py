"""What the command line prints. A terminal gets rich tables, everything else gets aligned columns."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headstart.progress import duration, safe

__all__ = [
    "advice",
    "audit_lines",
    "between",
    "checks",
    "inspection",
    "is_terminal",
    "kept",
    "percent",
    "predictions",
    "predictions_csv",
    "race_table",
    "ranking",
    "run_summary",
    "scores",
    "sources",
    "subset",
    "table",
    "write",
]

_WARNINGS = 3
_FINALISTS = 3  # shown of a race
_MOST = 10  # names shown of a long list; the JSON has them all


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def write(text: str = "") -> None:
    """Write a line to standard output; undecodable bytes of file names are written out."""
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def percent(value: float | None) -> str:
    """A share as a percentage, "?" when it is missing."""
    return "?" if value is None else f"{value:.1%}"


def between(interval: Sequence[float] | None, scale: float = 100.0, unit: str = " %") -> str:
    """An interval as text: "85.2 to 94.5 %"; empty where there is none."""
    if not interval or any(bound is None for bound in interval):
        return ""
    return f"{interval[0] * scale:.1f} to {interval[1] * scale:.1f}{unit}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Write a table; the columns whose numbers are in `right` are aligned to the right."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if is_terminal():
        _rich_table(columns, cells, right)
        return
    widths = [max(len(str(row[i])) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [columns, *cells]:
        aligned = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        write("  ".join(aligned).rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        drawn.add_column(Text(column), justify="right" if i in right else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))  # Text, not str: a name may look like rich's markup
    Console().print(drawn)


def _named(title: str, rows: Iterable[str], total: int) -> list[str]:
    shown = [f"  {safe(row)}" for row, _ in zip(rows, range(_MOST), strict=False)]
    return [f"{title}: {total}", *shown, *([f"  … and {total - _MOST} more"] if total > _MOST else [])] if total else []


def audit_lines(found: Mapping[str, Any]) -> list[str]:
    """What the audit found besides the counts, a line each."""
    lines: list[str] = []
    for key, title in (("skipped", "skipped"), ("suspicious", "odd but used")):
        rows = found.get(key) or []
        lines += _named(title, (f"{row['file']}: {row['reason']}" for row in rows), len(rows))
    groups = {
        "duplicates": "identical files",
        "leaks": "identical over splits",
        "contradictions": "identical, labels differ",
    }
    for key, title in groups.items():
        rows = found.get(key) or []
        lines += _named(title, (" = ".join(row) for row in rows), len(rows))
    near = found.get("near_duplicates") or {}
    alike = {
        "groups": "nearly the same",
        "across_splits": "nearly the same over splits",
        "contradictions": "nearly the same, labels differ",
    }
    for key, title in alike.items():
        rows = near.get(key) or []
        lines += _named(title, (" ~ ".join(row[:4]) + (" ~ …" if len(row) > 4 else "") for row in rows), len(rows))
    rows = found.get("group_leaks") or []
    lines += _named("groups over splits", (f"{row['group']}: {', '.join(row['splits'])}" for row in rows), len(rows))
    lines += [f"warning: {safe(text)}" for text in found.get("warnings") or []]
    return lines + [f"note: {safe(text)}" for text in found.get("notes") or []]


def _sizes(sizes: Mapping[str, Any]) -> list[str]:
    lines = []
    if sizes.get("width") and sizes.get("height"):
        spans = [
            f"{side} {s['min']} to {s['max']} (median {s['median']:g})"
            for side in ("width", "height")
            if (s := sizes[side])
        ]
        lines.append("pixels: " + ", ".join(spans))
    for key in ("formats", "modes"):
        if sizes.get(key):
            lines.append(f"{key}: " + ", ".join(f"{safe(name)} {count}" for name, count in sizes[key].items()))
    return lines


def inspection(found: Mapping[str, Any]) -> None:
    """Write what inspect found: items by class and split, then everything that wants a look."""
    splits = {name: value.get("per_class", value) for name, value in found["splits"].items()}
    names = list(splits)
    rows: list[list[object]] = [[label, *(splits[n].get(label, 0) for n in names)] for label in found["classes"]]
    rows.append(["all", *(sum(splits[n].values()) for n in names)])
    table(["class", *(name or "unsplit" for name in names)], rows, right=range(1, len(names) + 1))
    write()
    for line in [*_sizes(found.get("sizes") or {}), *audit_lines(found)]:
        write(line)
    if (imbalance := found.get("imbalance")) and imbalance > 1.5:
        write(f"the largest class has {imbalance:.1f} times the items of the smallest")


def subset(made: Mapping[str, Any]) -> None:
    """Write how many items of each split were taken, and where they lie."""
    counts = ", ".join(f"{name or 'unsplit'} {n}" for name, n in made["splits"].items())
    write(f"{safe(made['path'])}: {len(made['classes'])} classes, {counts} items")
    for text in made.get("notes") or []:
        write(f"note: {safe(text)}")


def _score_rows(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    test = (run.get("scores") or {}).get("test") or {}
    accuracy, majority = test.get("accuracy"), (run.get("baselines") or {}).get("majority") or {}
    crossed = run.get("cross_validation") or {}
    if accuracy is not None:
        span = between(test.get("accuracy_interval"))
        rows.append(
            ("test accuracy", f"{percent(accuracy)}  (95 % interval {span}; {test['n']} items no choice has seen)")
        )
    elif crossed.get("accuracy") is not None:
        span = between(crossed.get("accuracy_interval"))
        told = f"{percent(crossed['accuracy'])}  (95 % interval {span}; no test set: {crossed['n']} items, by turns)"
        rows.append(("accuracy", told))
    if (floor := majority.get("accuracy")) is not None:
        named = f"  (always {safe(majority['class'])})" if majority.get("class") is not None else ""
        rows.append(("majority", percent(floor) + named))
        if accuracy is not None:
            rows.append(("gain", f"{(accuracy - floor) * 100:+.1f} points over the majority"))
    if gain := run.get("gain_over_scratch"):
        span = between(gain.get("interval"), scale=1.0, unit="")
        rows.append(
            (
                "",
                f"{gain['points']:+.1f} points over training from scratch"
                + (f"  (95 % interval {span})" if span else ""),
            )
        )
    return rows


def _last(address: str) -> str:
    """The last part of a path or address."""
    return address.rstrip("/").rpartition("/")[2] or address


def _plan_rows(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    plan, rows = run.get("plan") or {}, list[tuple[str, str]]()
    if plan:
        trained = plan.get("trained_parameters")
        many = f", {trained:,} trained parameters" if isinstance(trained, int) else ""
        address = (run.get("source") or {}).get("address", "")
        rows.append(("plan", f"{plan.get('strategy')}, {plan.get('head')} head on {safe(address)}{many}"))
        chosen = _choice_rows(run)
        rows += chosen or [("", f"because {safe(reason)}") for reason in plan.get("reasons") or []]
    if sentence := (run.get("diagnosis") or {}).get("sentence"):
        rows.append(("verdict", safe(sentence)))
    if (seconds := (run.get("seconds") or {}).get("total")) is not None:
        rows.append(("time", duration(seconds)))
    return rows


def race_table(race: Sequence[Mapping[str, Any]]) -> None:
    """Write the race: a row for each contestant: what was trained, how long, scores with intervals, overfitting gap."""
    if any(row.get("stage") for row in race):
        _race_of_stages(race)
        return
    rows = []
    for row in race:
        if row.get("error"):
            rows.append([row.get("strategy"), row.get("head", ""), "", "", "failed: " + str(row["error"]), "", "", ""])
            continue
        cells = [
            f"{percent(s.get('accuracy'))} ({between(s.get('accuracy_interval'))})" if s else ""
            for s in (row.get("val"), row.get("test"))
        ]
        seconds = row.get("seconds")
        time = "" if seconds is None else duration(seconds)
        chosen = "chosen" if row.get("finalist") else ""
        gap = "" if row.get("gap") is None else f"{100 * row['gap']:+.1f}"
        start = [row.get("strategy"), row.get("head", ""), row.get("trained_parameters", ""), time]
        rows.append([*start, *cells, gap, chosen])
    heads = ["strategy", "head", "trained", "time", "validation", "test", "gap", ""]
    table(heads, rows, right=(2, 3, 6))
    write("trained: parameters; gap: training minus validation accuracy, in points")


def _race_of_stages(race: Sequence[Mapping[str, Any]]) -> None:
    """Write the finalists of an automatic race, the chosen one first, and how many others were stopped early."""
    final = [row for row in race if row.get("finalist") or row.get("chosen")]
    final.sort(key=lambda row: (not row.get("chosen"), -(row.get("score") or 0.0)))
    several = len({row.get("source") for row in final}) > 1
    rows = []
    for row in final[:_FINALISTS]:
        way = f"{row.get('strategy')} from {row['cut']}" if row.get("strategy") == "partial" and row.get("cut") else ""
        seconds, p = row.get("seconds"), row.get("p_against_best")
        cells = [
            way or row.get("strategy"),
            row.get("head") or "",
            *([_last(row.get("source") or "")] if several else []),
        ]
        held = f"{percent(row.get('score'))} ({between(row.get('interval'))})" if row.get("interval") else ""
        cells += ["" if seconds is None else duration(seconds), held, "" if p is None else f"{p:.3f}"]
        rows.append([*cells, "chosen" if row.get("chosen") else ""])
    heads = ["strategy", "head", *(["source"] if several else []), "time", "right, held-out", "p", ""]
    table(heads, rows, right=(len(heads) - 4, len(heads) - 2))
    others = len(race) - len(rows)
    write(f"p: against the best{f'; {others} more in the report' if others else ''}")


def _choice_rows(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Why this plan: the race's own sentence in place of the reasons, and whether the advice was another."""
    choice, advice = run.get("choice") or {}, run.get("advice") or {}
    rows = [("choice", safe(choice["sentence"]))] if choice.get("sentence") else []
    chosen = (run.get("plan") or {}).get("strategy")
    if rows and advice.get("strategy") and chosen:
        agreed = "and so did the race" if advice["strategy"] == chosen else f"the race chose {safe(chosen)}"
        rows.append(("", f"the rule of thumb said {safe(advice['strategy'])}, {agreed}"))
    return rows


def _answer_rows(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line each for unknown, the forecast, labels and twins."""
    rows: list[tuple[str, str]] = []
    reject = run.get("reject") or {}
    if (refused := (reject.get("held_out") or {}).get("rejected")) is not None:
        foreign = [f"{percent(1 - one['accepted'])} of {safe(one['name'])}" for one in reject.get("foreign") or []]
        rows.append(("unknown", f"said to {', '.join([f'{percent(refused)} of own test items', *foreign[:2]])}"))
    if sentence := (run.get("forecast") or {}).get("sentence"):
        rows.append(("forecast", safe(sentence)))
    if issues := run.get("label_issues"):
        worst = issues[0]
        said = f"{safe(worst['file'])} is labelled {safe(worst['label'])}, looks like {safe(worst['suggested'])}"
        rows.append(("labels", f"{len(issues)} look{'s' if len(issues) == 1 else ''} wrong, first: {said}"))
    near = run.get("near_duplicates") or {}
    if groups := near.get("groups"):
        told = f"{len(groups)} group{'' if len(groups) == 1 else 's'} of near-identical items"
        across, rest = near.get("across_splits"), (near.get("test") or {}).get("without_twin") or {}
        told += f", {len(across)} over splits" if across else ""
        alone = rest.get("accuracy")
        rows.append(("twins", told + (f"; accuracy without them {percent(alone)}" if alone is not None else "")))
    return rows


def run_summary(run: Mapping[str, Any], folder: object) -> None:
    """Write the short summary of a run: scores with intervals, the plan, where things lie, what to do next."""
    if len(race := run.get("race") or []) > 1:
        race_table(race)
        write()
    rows = [*_score_rows(run), *_plan_rows(run), *_answer_rows(run)]
    data = run.get("data") or {}
    counts = {"skipped": "files skipped", "leaks": "groups of identical files over splits"}
    if found := [f"{len(data[key])} {words}" for key, words in counts.items() if data.get(key)]:
        rows.append(("attention", f"{', '.join(found)}: see the report"))
    warnings = [safe(text) for text in data.get("warnings") or []]
    rows += [("attention", text) for text in warnings[:_WARNINGS]]
    if len(warnings) > _WARNINGS:
        rows.append(("", f"{len(warnings) - _WARNINGS} more: see the report"))
    if folder is not None:
        place = str(folder)
        quoted = safe(shlex.quote(place))
        rows += [("report", safe(f"{place}/report.html")), ("model", safe(f"{place}/model"))]
        rows += [("next", f"headstart predict {quoted} PICTURES"), ("", f"headstart evaluate {quoted} DATA")]
    for name, text in rows:
        write(f"{name:14} {text}")


def scores(measured: Mapping[str, Any]) -> None:
    """Write the scores of one split: the measures with their interval, then a row for each class."""
    span = between(measured.get("accuracy_interval"))
    write(f"{'items':18} {measured['n']}")
    if skipped := measured.get("skipped") or []:
        first = safe(f"{skipped[0]['file']}: {skipped[0]['reason']}")
        write(f"{'skipped':18} {len(skipped)}, such as {first}")
    if measured.get("seen"):
        write(f"{'attention':18} {_seen(measured)}")
    write(f"{'accuracy':18} {percent(measured['accuracy'])}  (95 % interval {span})")
    if (unknown := measured.get("unknown")) is not None:
        write(f"{'unknown':18} {_unknown(unknown)}")
    for key in ("top5_accuracy", "balanced_accuracy"):
        if measured.get(key) is not None:
            write(f"{key.replace('_', ' '):18} {percent(measured[key])}")
    for key in ("macro_f1", "log_loss", "calibration_error"):
        if measured.get(key) is not None:
            write(f"{key.replace('_', ' '):18} {measured[key]:.3f}")
    write()
    rows = [
        [label, f"{one.get('n', 0):g}", *(percent(one.get(key)) for key in ("precision", "recall", "f1"))]
        for label, one in (measured.get("per_class") or {}).items()
    ]
    table(["class", "items", "precision", "recall", "f1"], rows, right=(1, 2, 3, 4))


def _unknown(found: Mapping[str, Any]) -> str:
    """How many pictures get no answer, and how good the answers are that are given."""
    refused = round(found["rejected"] * found["n"])
    told = f"{refused} of {found['n']} pictures get no answer"
    if found["accuracy_kept"] is None:
        return told
    span = between(found["accuracy_kept_interval"])
    return f"{told}; of the {found['n'] - refused} answers {percent(found['accuracy_kept'])} are right  ({span})"


def _seen(measured: Mapping[str, Any]) -> str:
    """What the scores are worth when the model was made with some of the pictures."""
    told = f"the model was made with {measured['seen']} of them, so these scores are too good"
    rest = measured.get("unseen")
    if not rest:
        return told
    span = between(rest["accuracy_interval"])
    return f"{told}; on the other {rest['n']}: accuracy {percent(rest['accuracy'])} ({span})"


def predictions(answers: Sequence[Mapping[str, Any]]) -> None:
    """Write a row for each picture: its most probable classes, or why it could not be read."""
    rows = []
    for answer in answers:
        if "error" in answer:
            rows.append([answer["file"], "unreadable", answer["error"]])
            continue
        if answer.get("best") is not None:
            told = f"no answer: the likeliest would be {answer['best']}, {percent(answer['probability'])}"
            rows.append([answer["file"], answer["label"], told])
            continue
        others = sorted((answer.get("probabilities") or {}).items(), key=lambda pair: -pair[1])[1:3]
        also = ", ".join(f"{name} {percent(value)}" for name, value in others)
        rows.append([answer["file"], answer["label"], percent(answer["probability"]) + (f"  ({also})" if also else "")])
    table(["file", "class", "probability"], rows)


def predictions_csv(answers: Sequence[Mapping[str, Any]]) -> None:
    """Write CSV: file, label, probability, error, then a column p:CLASS for each class."""
    from headstart.files import csv_text

    classes = list(dict.fromkeys(name for answer in answers for name in answer.get("probabilities") or {}))
    rows = [["file", "label", "probability", "error", *(f"p:{name}" for name in classes)]]
    for answer in answers:
        shares = answer.get("probabilities") or {}
        first = [answer.get(key, "") for key in ("file", "label", "probability", "error")]
        rows.append([*first, *(shares.get(name, "") for name in classes)])
    sys.stdout.write(csv_text(rows).encode("utf-8", "backslashreplace").decode("utf-8"))


def sources(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a row for each source that can be used, with whatever is known of it."""
    if not rows:
        write("no source found: name a folder, or list every known name with --all '*'")
        return
    columns = [key for key in rows[0] if all(not isinstance(row.get(key), (Mapping, list, tuple)) for row in rows)]
    kept = [key for key in columns if any(row.get(key) not in (None, "") for row in rows)]
    table(kept, [["" if row.get(key) is None else row[key] for key in kept] for row in rows])


def ranking(rows: Sequence[Mapping[str, Any]], data: object) -> None:
    """Write sources in the order in which they fit the data, and those that could not be used."""
    good = [row for row in rows if "error" not in row]
    cells = [
        [
            row["source"], f"{row['logme']:.3f}", f"{row['h_score']:.2f}", percent(row["probe"]),
            f"{row['parameters']:,}", duration(row["seconds"]),
        ]
        for row in good
    ]  # fmt: skip
    table(["source", "LogME", "H-score", "probe", "parameters", "time"], cells, right=(1, 2, 3, 4, 5))
    for row in rows:
        if "error" in row:
            write(f"not ranked: {safe(row['error'])}")
    if good:
        looked = f"{good[0]['items']:,} of {good[0]['of']:,} training pictures"
        write(
            f"best first by LogME, on {looked}; probe: accuracy of a cross-validated ridge head; no test picture seen"
        )
        best = shlex.quote(str(good[0]["source"]))
        write(f"next: headstart fit {safe(shlex.quote(str(data)))} --source {safe(best)}")


def advice(found: Mapping[str, Any]) -> None:
    """Write where the data stand, what that suggests, why, and what would change it."""
    told = found["advice"]
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in told["options"].items())
    rows = [
        ("data", f"{told['images_per_class']:,.0f} training images a class: {told['size']}"),
        ("similarity", f"{told['similarity']['value']:.2f} to {safe(found['source'])}: {told['similarity']['level']}"),
        ("suggested", f"{told['strategy']}  ({flags})"),
        *[("because" if number == 0 else "", safe(text)) for number, text in enumerate(told["reasons"])],
        *[("would change" if number == 0 else "", safe(text)) for number, text in enumerate(told["would_change"])],
        ("time", duration(found["seconds"])),
        ("next", f"headstart compare {safe(shlex.quote(str(found['data'])))} measures: this is only what to expect"),
    ]
    for name, text in rows:
        write(f"{name:14} {text}")


def _size(count: float) -> str:
    """Bytes in words: "1.3 GB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def kept(found: Mapping[str, Any]) -> None:
    """Write what is kept between runs, the last used first, and what was removed."""
    names = ("kind", "source", "what", "dtype", "engine", "rows")
    rows = [
        [*(row[name] or "" for name in names), _size(row["bytes"]), str(row["used"])[:16].replace("T", " ")]
        for row in found["entries"]
    ]
    if rows:
        table([*names, "size", "last used (UTC)"], rows, right=(5, 6))
    if found["removed"]:
        write(f"removed: {len(found['removed'])}, {_size(sum(row['bytes'] for row in found['removed']))}")
    write(f"kept: {_size(found['total'])} of at most {_size(found['bound'])} in {safe(found['folder'])}")


def checks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what doctor checked, and the remedy of everything that is not well."""
    marks = {True: "ok", False: "MEND"}
    table(["", "check", "found"], [[marks.get(row["ok"], "note"), row["check"], row["detail"]] for row in rows])
    for row in rows:
        if row["ok"] is not True and row.get("remedy"):
            write(f"{safe(row['check'])}: {safe(row['remedy'])}")
