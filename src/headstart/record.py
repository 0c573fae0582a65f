"""From candidates to the run's record: scores, run.json, predictions.csv, the report and the model card."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart import __version__, files, report, runfolder
from headstart.data import decode
from headstart.data.augment import View
from headstart.data.cores import processor
from headstart.data.facts import data_facts
from headstart.data.licence import find_licence
from headstart.errors import RunError, UnreadableImage
from headstart.judge import diagnosis, intervals, scoring
from headstart.judge.label_issues import to_csv
from headstart.records import SCHEMA, Item, Scores, plain
from headstart.ship.evaluate import SEEN_DIGITS
from headstart.ship.explain import looked_at
from headstart.ship.learned import Known, Learned
from headstart.ship.model import Model, softmax
from headstart.stages import Bench, Candidate
from headstart.transfer.feeds import kept_views
from headstart.transfer.statistics import WIDEST, Statistics

__all__ = [
    "bare_model",
    "begun",
    "build_model",
    "command",
    "environment",
    "race_rows",
    "right_answers",
    "run_record",
    "score_splits",
    "write_run",
]

_GALLERY = 24
_WIDE = 1_000  # classes up to which predictions.csv has a column for each: with more it would be mostly zeros


def score_splits(bench: Bench, candidate: Candidate) -> dict[str, Scores]:
    """Scores on every split that has items."""
    found: dict[str, Scores] = {}
    for name, logits in candidate.logits.items():
        labels, there = bench.samples(name).labels, np.isfinite(logits).all(axis=1)
        if there.any():
            found[name] = scoring.score(labels[there], softmax(logits[there]), classes=bench.dataset.classes)
    return found


def run_record(
    bench: Bench,
    chosen: Candidate,
    *,
    baseline: Candidate | None = None,
    race: Sequence[Mapping[str, Any]] = (),
    command: str | None = None,
) -> dict[str, Any]:
    """run.json as a plain dict. All but `seconds` (in `race` too) and `work` is the same when a command runs again."""
    scores = score_splits(bench, chosen)
    test = bench.samples(bench.judged_split).labels
    majority = scoring.majority(bench.samples("train").labels, test, bench.dataset.classes)
    baselines: dict[str, Any] = {"majority": majority}
    gain = None
    if baseline is not None and bench.judged_split == "test":
        there = np.isfinite(baseline.logits["test"]).all(axis=1)
        scratch = scoring.score(test[there], softmax(baseline.logits["test"][there]), classes=bench.dataset.classes)
        baselines["scratch"] = {**plain(scratch), "epochs": baseline.plan.epochs}
        right, other = right_answers(bench, (chosen, baseline), "test")
        found = intervals.paired_bootstrap(right, other, seed=bench.settings.seed)
        gain = {"points": 100 * found.value, "interval": [100 * found.low, 100 * found.high]}
    card = bench.source.card
    record = {
        "schema": SCHEMA,
        "headstart": __version__,
        "seed": bench.settings.seed,
        "command": command,
        "settings": asdict(bench.settings),
        "data": {**data_facts(bench.dataset, bench.facts), "licence": find_licence(bench.dataset.path)},
        "source": {
            "address": bench.source.address,
            "architecture": card.architecture,
            "parameters": sum(p.numel() for p in bench.source.parameters()),
            "sha256": card.sha256,
            "input_size": card.input_size,
            "licence": card.licence,
            "origin": card.origin,
        },
        "plan": {
            **plain(chosen.plan),
            "trained_parameters": chosen.trained_parameters,
            "chosen": chosen.head.chosen,
        },
        "scores": scores,
        "baselines": baselines,
        "gain_over_scratch": gain,
        "race": list(race),
        "curves": chosen.curves,
        "diagnosis": _diagnosis(bench, chosen, scores),
        "features": {"items": len(bench.dataset.items), "pooling": chosen.plan.pooling, "dtype": "float32"},
        "frozen": chosen.frozen,
        "notes": [*bench.notes, *chosen.notes],
        "environment": environment(bench),
        "work": dict(bench.work),
        "seconds": {name: round(value, 3) for name, value in bench.seconds.items()},
    }  # fmt: skip
    result: dict[str, Any] = plain(record)
    return result


def race_rows(bench: Bench, candidates: Sequence[Candidate], best: Candidate) -> list[dict[str, Any]]:
    """The strategy table: one row a candidate. `score`, `interval` and `p_against_best` are of the validation items."""
    right = right_answers(bench, candidates, "val")
    rows = []
    for number, candidate in enumerate(candidates):
        row = _race_row(bench, candidate)
        row["finalist"] = candidate is best
        if len(right[number]) and candidate is not best:
            row["p_against_best"] = intervals.mcnemar(right[number], right[candidates.index(best)])
        rows.append(row)
    return rows


def right_answers(bench: Bench, candidates: Sequence[Candidate], split: str) -> list[np.ndarray]:
    """Which answers of each candidate are right, bool (n,), on the items of a split that all of them could read."""
    tables, labels = [candidate.logits[split] for candidate in candidates], bench.samples(split).labels
    there = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0)
    return [(table.argmax(1) == labels)[there] for table in tables]


def _race_row(bench: Bench, candidate: Candidate) -> dict[str, Any]:
    scores = score_splits(bench, candidate)

    def short(name: str) -> dict[str, Any] | None:
        found = scores.get(name)
        if found is None:
            return None
        return {"n": found.n, "accuracy": found.accuracy, "accuracy_interval": list(found.accuracy_interval)}

    held = short("val")
    return {
        "strategy": candidate.plan.strategy,
        "head": candidate.plan.head,
        "source": bench.source.address,
        "cut": candidate.plan.cut,
        "trained_parameters": candidate.trained_parameters,
        "seconds": round(candidate.seconds, 2),
        "train_accuracy": scores["train"].accuracy,
        "val": held,
        "test": short("test"),
        "score": held["accuracy"] if held else None,
        "interval": held["accuracy_interval"] if held else None,
        "gap": scores["train"].accuracy - held["accuracy"] if held else None,
        "p_against_best": None,
        "verdict": _diagnosis(bench, candidate, scores)["verdict"],
        "finalist": False,
    }


def _diagnosis(bench: Bench, candidate: Candidate, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Over- or underfitting, from training and validation alone."""
    held, classes = bench.samples("val").labels, bench.dataset.classes
    train = bench.samples("train").labels
    majority = scoring.majority(train, held if len(held) else train, classes)
    return diagnosis.diagnose(
        candidate.curves["points"], train=scores.get("train"), val=scores.get("val"),
        majority=float(majority["accuracy"]), axis=candidate.curves["axis"],
        frozen=candidate.plan.strategy == "frozen",
    )  # fmt: skip


def command(verb: str, bench: Bench, strategies: Sequence[str] = ()) -> str | None:
    """The command line that repeats the run; None when its data were in memory."""
    if bench.dataset.path == "memory":
        return None
    settings, words = bench.settings, ["headstart", verb, bench.dataset.path]
    if verb == "compare":  # which has no flags for these: it sets them itself
        settings = replace(settings, strategy="auto", refit=True)
        words += ["--strategies", ",".join(strategies)]
    return shlex.join([*words, *settings.flags(), "--out"]) + " RUN"


def environment(bench: Bench) -> dict[str, Any]:
    """Versions and machine."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions: dict[str, str] = {}
    for package in ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pillow", "accelerate"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": bench.device,
    }
    if bench.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def begun(bench: Bench, before: Mapping[str, Any] | None, *, where: Path | None) -> dict[str, Any]:
    """What the run is begun with, for settings.json; `before` is what one that goes on was begun with.

    Raises RunError where data or source have changed since, and notes where the machine has.
    """
    now = runfolder.begun(bench.dataset, bench.facts, bench.source.card, environment=environment(bench))
    if before is None:
        return now
    if changed := runfolder.changes(before, now):
        raise RunError(
            f"the run was begun with other data or another source: {'; '.join(changed)}",
            where=where,
            remedy="Put it back as it was, or start a new run with `headstart fit` and another --out.",
        )
    pairs = [(name, old, now["environment"].get(name)) for name, old in before["environment"].items()]
    if unlike := [f"{name} {old}, now {new}" for name, old, new in pairs if new != old]:
        bench.reporter.note(f"the run was begun with {'; '.join(unlike)}: last digits may differ")
    return now


def build_model(bench: Bench, chosen: Candidate, record: Mapping[str, Any]) -> Model:
    """The Model of the chosen candidate, with the facts that travel with it."""
    used = {bench.facts.hashes[item.name][:SEEN_DIGITS] for item in bench.samples("train", "val").items}
    facts = {
        "source": record["source"],
        "scores": {"test": record["scores"].get("test")},
        "seen": sorted(used),  # by these `evaluate` tells pictures that the model was made with
    }
    return _model(bench, chosen, environment(bench), facts, learned=_learned(bench, chosen))


def _learned(bench: Bench, chosen: Candidate) -> Learned:
    """What the head was fitted on, for `extend`: see ship.learned."""
    frozen, head, settings = chosen.plan.strategy == "frozen", chosen.head, bench.settings
    splits = ("train", "val") if settings.refit or not frozen else ("train",)
    training, judged = bench.samples(*splits), bench.samples("test")
    n, views = len(training.items), list[View]()
    if frozen and head.oof is not None and len(head.oof) > n:
        views = kept_views(settings, len(head.oof) // n - 1)
    statistics = head.statistics if frozen else None
    if frozen and head.kind == "ridge" and statistics is None and head.arrays["weight"].shape[1] <= WIDEST:
        rows = [bench.features(chosen.plan.pooling, *splits, view=view) for view in (View(), *views)]
        labels = np.tile(training.labels, len(rows))
        statistics = Statistics.of(np.concatenate(rows), labels, n_classes=bench.n_classes)
        if not statistics.give(head.arrays, head.chosen):  # a picture has left the data since
            statistics = None
    known = [Known.of(some.hashes, some.labels) for some in (training, judged)]
    precision = "bf16" if settings.precision == "bf16" else "fp32"
    device = bench.device.partition(":")[0]
    return Learned(known[0], known[1], tuple(views), settings.seed, precision, device, statistics)


def bare_model(bench: Bench, chosen: Candidate) -> Model:
    """The Model of a candidate that was not judged."""
    return _model(bench, chosen, environment(bench), {})


def _model(
    bench: Bench,
    chosen: Candidate,
    found: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    learned: Learned | None = None,
) -> Model:
    versions = {name: found[name] for name in ("torch", "torchvision", "timm", "numpy", "pillow")}
    facts = {"headstart": __version__, **facts, "versions": versions}
    return Model(
        chosen.net, bench.dataset.classes, head=chosen.head, plan=chosen.plan, facts=facts, reject=chosen.reject,
        temperature=chosen.temperature, learned=learned,
    )  # fmt: skip


def write_run(folder: Path, bench: Bench, chosen: Candidate, record: Mapping[str, Any]) -> Model:
    """Write model, predictions, report, and run.json last: a folder with run.json is whole. Gives the model."""
    model = build_model(bench, chosen, record)
    model.save(folder / "model", readme=lambda config: report.model_card(record, report.Shared(config=config)))
    files.write_text(folder / "predictions.csv", predictions_csv(bench, chosen))
    issues = record.get("label_issues") or []
    if issues:
        files.write_text(folder / "label_issues.csv", to_csv(issues))
    pictures = {
        "sample": _sample(bench), "errors": _errors(bench, chosen, model), "label_issues": _doubtful(bench, issues),
    }  # fmt: skip
    files.write_text(folder / "report.html", report.render(record, pictures=pictures))
    files.write_text(folder / "report.md", report.to_markdown(record))
    files.write_json(folder / "run.json", record)
    return model


def predictions_csv(bench: Bench, candidate: Candidate) -> str:
    """The judged items with label, prediction and all probabilities, as CSV text; of many classes those of the two."""
    classes = bench.dataset.classes
    wide = len(classes) <= _WIDE
    shown = [f"p_{name}" for name in classes] if wide else ["p_label", "p_predicted"]
    rows = [["file", "label", "predicted", *shown]]
    samples, logits = bench.samples(bench.judged_split), candidate.logits[bench.judged_split]
    for item, label, row in zip(samples.items, samples.labels, softmax(logits), strict=True):
        if np.isnan(row).any():  # in a fold that was not judged
            continue
        best = int(row.argmax())
        told = row if wide else row[[label, best]]
        rows.append([item.name, classes[label], classes[best], *(f"{p:.6f}" for p in told)])
    return files.csv_text(rows)


def _sample(bench: Bench) -> list[report.Picture]:
    """Some training pictures, the classes in turn."""
    rng = np.random.default_rng(bench.settings.seed)
    by_class: dict[int, list[Item]] = {}
    for item in bench.samples("train").items:
        by_class.setdefault(int(item.label or 0), []).append(item)
    queues = [[items[i] for i in rng.permutation(len(items))] for _, items in sorted(by_class.items())]
    turns = [queue[depth] for depth in range(_GALLERY) for queue in queues if depth < len(queue)]
    classes = bench.dataset.classes
    return _pictures(bench, ((item, {"label": classes[int(item.label or 0)]}) for item in turns[:_GALLERY]))


def _pictures(bench: Bench, wanted: Iterable[tuple[Item, dict[str, Any]]]) -> list[report.Picture]:
    """Thumbnails for the report, without those that can no longer be read: a picture less must not end the run."""
    found = []
    for item, words in wanted:
        with suppress(UnreadableImage):
            thumbnail = decode.thumbnail(item, sha256=bench.facts.hashes.get(item.name, ""))
            found.append(report.Picture(item.name, thumbnail, **words))
    return found


def _doubtful(bench: Bench, issues: Sequence[Mapping[str, Any]]) -> list[report.Picture]:
    """The items whose labels look wrong, the worst first."""
    where = {item.name: item for item in bench.dataset.items}
    wanted = [
        (
            where[str(row["file"])],
            {"label": row["label"], "predicted": row["suggested"], "probability": row["p_suggested"]},
        )
        for row in issues[:_GALLERY]
    ]
    return _pictures(bench, wanted)


def _errors(bench: Bench, candidate: Candidate, model: Model) -> list[report.Picture]:
    """The judged items that were most confidently wrong, with what the model looked at."""
    samples = bench.samples(bench.judged_split)
    chances = softmax(candidate.logits[bench.judged_split])
    predicted = chances.argmax(1)
    wrong = np.flatnonzero((predicted != samples.labels) & np.isfinite(chances).all(axis=1))
    worst = wrong[np.argsort(-chances[wrong].max(1), kind="stable")][:_GALLERY]
    classes = bench.dataset.classes
    maps = looked_at(model, [samples.items[i] for i in worst], [int(predicted[i]) for i in worst])
    wanted = [
        (
            samples.items[i],
            {
                "label": classes[samples.labels[i]],
                "predicted": classes[predicted[i]],
                "probability": float(chances[i].max()),
                "map": drawn,
            },
        )
        for i, drawn in zip(worst, maps, strict=True)
    ]
    return _pictures(bench, wanted)
