"""From candidates to the run's record: scores, run.json, predictions.csv, the report and the model card."""

from __future__ import annotations

import csv
import io
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from headstart import __version__, files, report
from headstart.data import decode
from headstart.data.facts import data_facts
from headstart.judge import diagnosis, intervals, scoring
from headstart.records import SCHEMA, Item, Scores, plain
from headstart.ship.model import Model, softmax
from headstart.stages import Bench, Candidate

__all__ = ["bare_model", "build_model", "environment", "race_row", "run_record", "score_splits", "write_run"]

_GALLERY = 24


def score_splits(bench: Bench, candidate: Candidate) -> dict[str, Scores]:
    """Scores on every split that has items."""
    found: dict[str, Scores] = {}
    for name, logits in candidate.logits.items():
        labels = bench.samples(name).labels
        if len(labels):
            found[name] = scoring.score(labels, softmax(logits), classes=bench.dataset.classes)
    return found


def run_record(
    bench: Bench,
    chosen: Candidate,
    *,
    baseline: Candidate | None = None,
    race: Sequence[Mapping[str, Any]] = (),
    verb: str = "fit",
) -> dict[str, Any]:
    """run.json as a plain dict. All but `seconds` and `work` is the same when the same command runs again."""
    scores = score_splits(bench, chosen)
    test = bench.samples("test").labels
    majority = scoring.majority(bench.samples("train").labels, test, bench.dataset.classes)
    baselines: dict[str, Any] = {"majority": majority}
    gain = None
    if baseline is not None:
        scratch = scoring.score(test, softmax(baseline.logits["test"]), classes=bench.dataset.classes)
        baselines["scratch"] = {**plain(scratch), "epochs": baseline.plan.epochs, "seconds": round(baseline.seconds, 2)}
        right, other = (c.logits["test"].argmax(1) == test for c in (chosen, baseline))
        found = intervals.paired_bootstrap(right, other, seed=bench.settings.seed)
        gain = {"points": 100 * found.value, "interval": [100 * found.low, 100 * found.high]}
        baselines["scratch"].pop("seconds")
    card = bench.source.card
    record = {
        "schema": SCHEMA,
        "headstart": __version__,
        "seed": bench.settings.seed,
        "command": command(verb, bench),
        "settings": asdict(bench.settings),
        "data": data_facts(bench.dataset, bench.facts),
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
        "diagnosis": diagnosis.diagnose(
            chosen.curves["points"], train=scores.get("train"), val=scores.get("val"),
            majority=float(majority["accuracy"]), axis=chosen.curves["axis"],
        ),
        "features": {"items": len(bench.dataset.items), "pooling": chosen.plan.pooling, "dtype": "float32"},
        "frozen": chosen.frozen,
        "notes": [*bench.notes, *chosen.notes],
        "environment": environment(bench),
        "work": dict(bench.work),
        "seconds": {name: round(value, 3) for name, value in bench.seconds.items()},
    }  # fmt: skip
    result: dict[str, Any] = plain(record)
    return result


def race_row(bench: Bench, candidate: Candidate) -> dict[str, Any]:
    """One row of the strategy table."""
    scores = score_splits(bench, candidate)

    def short(name: str) -> dict[str, Any] | None:
        found = scores.get(name)
        if found is None:
            return None
        return {"n": found.n, "accuracy": found.accuracy, "accuracy_interval": list(found.accuracy_interval)}

    verdict = diagnosis.diagnose(
        candidate.curves["points"], train=scores.get("train"), val=scores.get("val"), majority=0.0,
        axis=candidate.curves["axis"],
    )  # fmt: skip
    return {
        "strategy": candidate.plan.strategy,
        "head": candidate.plan.head,
        "source": bench.source.address,
        "cut": candidate.plan.cut,
        "trained_parameters": candidate.trained_parameters,
        "seconds": round(candidate.seconds, 2),
        "train_accuracy": scores["train"].accuracy,
        "val": short("val"),
        "test": short("test"),
        "gap": scores["train"].accuracy - scores["val"].accuracy if "val" in scores else None,
        "verdict": verdict["verdict"],
        "finalist": False,
    }


def command(verb: str, bench: Bench) -> str:
    """The command line that repeats the run."""
    words = ["headstart", verb, bench.dataset.path, *bench.settings.flags(), "--out", "RUN"]
    return " ".join(word if word == "RUN" else shlex.quote(word) for word in words)


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
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": bench.device,
    }
    if bench.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def build_model(bench: Bench, chosen: Candidate, record: Mapping[str, Any]) -> Model:
    """The Model of the chosen candidate, with the facts that travel with it."""
    names = ("torch", "torchvision", "timm", "numpy", "pillow")
    facts = {
        "headstart": __version__,
        "source": record["source"],
        "scores": {"test": record["scores"].get("test")},
        "versions": {name: record["environment"][name] for name in names},
    }
    return Model(chosen.net, bench.dataset.classes, head=chosen.head, plan=chosen.plan, facts=facts)


def bare_model(bench: Bench, chosen: Candidate) -> Model:
    """The Model of a candidate that was not judged."""
    return Model(chosen.net, bench.dataset.classes, head=chosen.head, plan=chosen.plan, facts={})


def write_run(folder: Path, bench: Bench, chosen: Candidate, record: Mapping[str, Any]) -> None:
    """Write model, predictions, report, and run.json last: a folder with run.json is whole."""
    build_model(bench, chosen, record).save(folder / "model", readme=report.to_markdown(record))
    files.write_text(folder / "predictions.csv", predictions_csv(bench, chosen))
    pictures = {"sample": _sample(bench), "errors": _errors(bench, chosen)}
    files.write_text(folder / "report.html", report.render(record, pictures=pictures))
    files.write_text(folder / "report.md", report.to_markdown(record))
    files.write_json(folder / "run.json", record)


def predictions_csv(bench: Bench, candidate: Candidate) -> str:
    """The test items with label, prediction and all probabilities, as CSV text."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    classes = bench.dataset.classes
    table.writerow(["file", "label", "predicted", *(f"p_{name}" for name in classes)])
    samples = bench.samples("test")
    for item, label, row in zip(samples.items, samples.labels, softmax(candidate.logits["test"]), strict=True):
        table.writerow([item.name, classes[label], classes[int(row.argmax())], *(f"{p:.6f}" for p in row)])
    return text.getvalue()


def _sample(bench: Bench) -> list[report.Picture]:
    """Some training pictures, the classes in turn."""
    rng = np.random.default_rng(bench.settings.seed)
    by_class: dict[int, list[Item]] = {}
    for item in bench.samples("train").items:
        by_class.setdefault(int(item.label or 0), []).append(item)
    queues = [[items[i] for i in rng.permutation(len(items))] for _, items in sorted(by_class.items())]
    turns = [queue[depth] for depth in range(_GALLERY) for queue in queues if depth < len(queue)]
    return [
        report.Picture(item.name, decode.thumbnail(item), bench.dataset.classes[int(item.label or 0)])
        for item in turns[:_GALLERY]
    ]


def _errors(bench: Bench, candidate: Candidate) -> list[report.Picture]:
    """The test items that were most confidently wrong."""
    samples = bench.samples("test")
    chances = softmax(candidate.logits["test"])
    predicted = chances.argmax(1)
    wrong = np.flatnonzero(predicted != samples.labels)
    worst = wrong[np.argsort(-chances[wrong].max(1), kind="stable")][:_GALLERY]
    classes = bench.dataset.classes
    return [
        report.Picture(
            samples.items[i].name, decode.thumbnail(samples.items[i]), classes[samples.labels[i]],
            predicted=classes[predicted[i]], probability=float(chances[i].max()),
        )
        for i in worst
    ]  # fmt: skip
