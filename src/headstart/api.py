"""The stages in order: what the command line and Python call.

Every option of a run is a keyword here, a flag of the command and a key of the recorded settings (see `Settings`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import files
from headstart.errors import DataError, Interrupted, OutputError, RunError, SettingsError, did_you_mean
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA
from headstart.settings import STRATEGIES, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from headstart.ship.model import Model
    from headstart.stages import Bench, Candidate
    from headstart.transfer.interrupt import Stop

__all__ = [
    "RunResult",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "fit",
    "inspect",
    "predict",
    "resume",
    "sample",
    "sources",
    "subset",
]

_OURS = ("checkpoints", "model", "strategies", "scratch")  # folders of a run folder that --overwrite may remove
_OUR_FILES = ("settings.json", "run.json", "report.html", "report.md", "predictions.csv", "log.jsonl")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: its folder (None when nothing was written), run.json as a dict, and the Model."""

    folder: Path | None
    run: dict[str, Any]
    model: Model


# --- training -------------------------------------------------------------------------------------------------


def fit(
    data: Any,
    out: str | Path | None = None,
    *,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    overwrite: bool = False,
    **options: Any,
) -> RunResult:
    """Transfer a source to `data`, judge it on a sealed test set and leave a model.

    `data` is a path, a pair (pictures, labels) or a Dataset; `out` the run folder (None: nothing is written);
    `options` are the fields of Settings. Raises a UserError when data, source, settings or folder cannot be used.
    """
    wanted = (settings or Settings()).changed(**options)
    return _run("fit", data, out, settings=wanted, reporter=reporter, overwrite=overwrite)


def compare(
    data: Any,
    out: str | Path | None = None,
    *,
    strategies: Sequence[str] | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    overwrite: bool = False,
    **options: Any,
) -> RunResult:
    """Run several strategies (default: all five) on the same splits and keep the one that is best on validation."""
    wanted = (settings or Settings()).changed(**{"refit": False, **options})
    names = tuple(strategies or STRATEGIES)
    for name in names:
        if name not in STRATEGIES:
            raise SettingsError(f"unknown strategy {name!r}", remedy=did_you_mean(name, list(STRATEGIES)))
    return _run("compare", data, out, settings=wanted, reporter=reporter, overwrite=overwrite, strategies=names)


def resume(run: str | Path, *, reporter: Reporter | None = None) -> RunResult:
    """Go on with an interrupted run; a finished one is returned as it is and no byte of it changes."""
    folder = Path(run)
    if not (folder / "settings.json").is_file():
        raise RunError("no run was started here", where=folder, remedy="Give the --out folder of `headstart fit`.")
    if (folder / "run.json").is_file():
        from headstart.ship.model import load

        (reporter or Silent()).say(f"{folder} is finished: nothing to do")
        return RunResult(folder, files.read_json(folder / "run.json"), load(folder))
    started = files.read_json(folder / "settings.json")
    if started.get("data") is None:
        raise RunError(
            "the run was started from Python with data in memory",
            where=folder,
            remedy="Call headstart.fit with the same data and overwrite=True.",
        )
    return _run(
        started["verb"], started["data"], folder, settings=Settings.of(**started["settings"]), reporter=reporter,
        strategies=tuple(started["strategies"]), going_on=True,
    )  # fmt: skip


def _run(
    verb: str,
    data: Any,
    out: str | Path | None,
    *,
    settings: Settings,
    reporter: Reporter | None,
    overwrite: bool = False,
    strategies: tuple[str, ...] = (),
    going_on: bool = False,
) -> RunResult:
    """Prepare, open the run folder, train, judge, write."""
    from headstart.stages import prepare
    from headstart.transfer.interrupt import listening

    reporter = reporter or Silent()
    folder = Path(out) if out is not None else None
    if folder is not None and not going_on:
        _check_folder(folder, overwrite)
    with listening() as stop:
        bench = prepare(data, settings=settings, reporter=reporter, stop=stop)
        plans = _plans(bench, settings, strategies)
        with _run_folder(folder, bench, overwrite=overwrite and not going_on):
            if folder is not None and bench.main:
                started = {
                    "schema": SCHEMA, "verb": verb, "data": str(data) if isinstance(data, (str, Path)) else None,
                    "strategies": strategies, "settings": asdict(settings),
                }  # fmt: skip
                files.write_json(folder / "settings.json", started)
            try:
                return _train_and_write(verb, bench, plans, folder)
            except (KeyboardInterrupt, Interrupted) as error:
                raise _interrupted(error, stop, folder) from None


def _interrupted(error: BaseException, stop: Stop, folder: Path | None) -> Interrupted:
    code = error.exit_code if isinstance(error, Interrupted) else stop.code or 130
    import shlex

    return Interrupted(code, f"headstart resume {shlex.quote(str(folder))}" if folder else "the same call again")


def _plans(bench: Bench, settings: Settings, strategies: tuple[str, ...]) -> list[tuple[Any, Settings]]:
    """A Plan for each candidate, with the settings that made it; wrong cuts come out before anything is written."""
    from headstart.stages import make_plan

    if not strategies:
        return [(make_plan(bench, settings), settings)]
    found = []
    for name in strategies:
        own: dict[str, Any] = {"strategy": name}
        if name != "partial":
            own.update(cut=None, train_last=None)
        if name != "frozen" and settings.head in ("svm", "ridge", "knn"):
            own["head"] = "linear"
        changed = settings.changed(**own)
        found.append((make_plan(bench, changed), changed))
    return found


def _train_and_write(verb: str, bench: Bench, plans: list[tuple[Any, Settings]], folder: Path | None) -> RunResult:
    import time

    from headstart import record as recording

    started = time.perf_counter()
    candidates = [_candidate(bench, plan, own, folder, alone=verb == "fit") for plan, own in plans]
    chosen, race = _choose(bench, candidates) if verb == "compare" else (candidates[0], [])
    baseline = _baseline(bench, candidates, folder)
    with bench.timed("judge"):
        written = recording.run_record(bench, chosen, baseline=baseline, race=race, verb=verb)
    if folder is not None and bench.main:
        before = sum(value for name, value in bench.seconds.items() if name in ("source", "audit"))
        written["seconds"]["total"] = round(before + time.perf_counter() - started, 3)
        with bench.reporter.stage("Writing the report"):
            recording.write_run(folder, bench, chosen, written)
    return RunResult(folder, written, recording.build_model(bench, chosen, written))


def _candidate(bench: Bench, plan: Any, settings: Settings, folder: Path | None, *, alone: bool) -> Candidate:
    from headstart.stages import train_candidate

    place = folder if alone or folder is None else folder / "strategies" / plan.strategy
    return train_candidate(bench, plan, settings=settings, folder=place)


def _choose(bench: Bench, candidates: list[Candidate]) -> tuple[Candidate, list[dict[str, Any]]]:
    """The candidate with the best validation accuracy; of equals the one with fewer trained parameters."""
    from headstart.record import race_row

    rows = [race_row(bench, candidate) for candidate in candidates]
    order = sorted(
        range(len(rows)),
        key=lambda i: (-(rows[i]["val"] or {"accuracy": 0.0})["accuracy"], candidates[i].trained_parameters),
    )
    rows[order[0]]["finalist"] = True
    return candidates[order[0]], rows


def _baseline(bench: Bench, candidates: list[Candidate], folder: Path | None) -> Candidate | None:
    """The same network from random weights on the same splits, when asked for or already trained."""
    from headstart.stages import make_plan, train_candidate

    for candidate in candidates:
        if candidate.plan.strategy == "scratch" and len(candidates) > 1:
            return candidate
    if bench.settings.baseline != "scratch" or candidates[0].plan.strategy == "scratch":
        return None
    head = bench.settings.head if bench.settings.head in ("auto", "linear", "mlp") else "linear"
    own = bench.settings.changed(
        strategy="scratch", head=head, cut=None, train_last=None, lr=None, backbone_lr=None, head_lr=None,
        layer_decay=None,
    )  # fmt: skip
    with bench.timed("baseline"):
        return train_candidate(
            bench, make_plan(bench, own), settings=own, folder=folder / "scratch" if folder is not None else None
        )


# --- the run folder -------------------------------------------------------------------------------------------


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Raise OutputError unless the run folder can be made: checked before any work, nothing is written."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("a file stands where the run folder should be", where=folder, remedy="Choose another --out.")
    if folder.is_dir() and (content := {entry.name for entry in folder.iterdir()} - {".lock", ".lock.holder"}):
        started = "settings.json" in content
        if not started:
            raise OutputError(
                "the folder is not empty and no run of headstart", where=folder, remedy="Choose another --out."
            )
        if not overwrite:
            finished = "run.json" in content
            remedy = "Choose another --out, or give --overwrite"
            raise OutputError(
                "a run stands there already", where=folder,
                remedy=remedy + ("." if finished else f", or go on with: headstart resume {folder}"),
            )  # fmt: skip
    files.check_writable(folder, need_bytes=50_000_000)


@contextmanager
def _run_folder(folder: Path | None, bench: Bench, *, overwrite: bool) -> Iterator[None]:
    """Make and hold the run folder (on the main process)."""
    if folder is None or not bench.main:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder) from error
    with files.lock(folder):
        if overwrite:
            for name in _OURS:
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in _OUR_FILES:
                (folder / name).unlink(missing_ok=True)
        yield


# --- looking at data ----------------------------------------------------------------------------------------------


def inspect(data: Any, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """What is in the data: classes, splits, skipped files, duplicates, leaks, sizes, warnings. Imports no torch."""
    from headstart.data.audit import audit
    from headstart.data.facts import counting, data_facts, load_data

    dataset = load_data(data)
    with (reporter or Silent()).progress("Checking pictures", len(dataset.items)) as bar:
        dataset, facts = audit(dataset, progress=counting(bar))
    return data_facts(dataset, facts)


def sample(data: Any, n: int = 24, *, seed: int = 0) -> Image:
    """A grid of `n` pictures with their labels, the classes in turn."""
    from headstart.data.facts import load_data
    from headstart.data.grid import sample_grid

    return sample_grid(load_data(data), n, seed=seed)


def subset(
    data: Any,
    out: str | Path,
    *,
    per_class: int,
    val: int = 0,
    test: int = 0,
    seed: int = 0,
    mode: str = "link",
) -> dict[str, Any]:
    """Make a small, stratified, seeded version of a data set as a folder of links or copies."""
    from headstart.data import subset as making
    from headstart.data.facts import load_data

    made = making.subset(load_data(data), Path(out), per_class=per_class, val=val, test=test, seed=seed, mode=mode)
    counts = {name: len(made.split(name)) for name in made.splits}
    return {"path": str(out), "classes": list(made.classes), "splits": counts, "notes": list(made.notes)}


def sources(folders: Sequence[str | Path] = (), pattern: str | None = None) -> list[dict[str, Any]]:
    """Sources that are cached or local; with `pattern`, the pretrained networks that timm knows."""
    from headstart.sources import known, list_sources

    if pattern is not None:
        return [{"address": address} for address in known(pattern)]
    return list_sources([Path(folder) for folder in folders])


# --- using a model --------------------------------------------------------------------------------------------


def predict(
    run: str | Path, files: Any, *, top_k: int | None = None, reporter: Reporter | None = None
) -> list[dict[str, Any]]:
    """Answers of a run's model for files and folders: {file, label, probability, probabilities} or {file, error}."""
    from headstart.ship.model import load

    return [answer.as_dict(top_k) for answer in load(run).predict(files, reporter=reporter)]


def evaluate(
    run: str | Path, data: Any, *, split: str | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Scores of a run's model on labelled data, classes matched by name.

    `split` is train, val, test or all; default: test where there is one, else all.
    Raises DataError when the data hold a class that the model does not know.
    """
    from headstart.data.facts import load_data
    from headstart.judge import scoring
    from headstart.records import plain
    from headstart.ship.model import load, softmax

    model, dataset = load(run), load_data(data)
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise DataError(
            f"the model does not know the class {', '.join(unknown)}; it knows {', '.join(model.classes)}",
            where=dataset.path,
            remedy="Rename the class or leave it out.",
        )
    if split is None:
        split = "test" if "test" in dataset.splits else "all"
    if split != "all" and split not in dataset.splits:
        raise DataError(f"there is no split {split!r}", where=dataset.path, remedy="Use --split all.")
    items = [item for item in dataset.items if item.label is not None and split in ("all", item.split)]
    logits, skipped = model.logits(items, reporter=reporter)
    unread = {entry.file for entry in skipped}
    read = [n for n, item in enumerate(items) if item.name not in unread]
    if not read:
        raise DataError("no picture can be read", where=dataset.path)
    import numpy as np

    labels = np.array([model.classes.index(dataset.classes[items[n].label or 0]) for n in read])
    scores = scoring.score(labels, softmax(logits[read]), classes=model.classes)
    found: dict[str, Any] = plain({"split": split, **plain(scores), "classes": model.classes, "skipped": skipped})
    return found


def demo(out: str | Path, *, reporter: Reporter | None = None) -> RunResult:
    """Transfer against scratch with few images a class, on data and a source that come with the package."""
    from headstart.demo import write_digits

    folder = Path(out)
    data = write_digits(folder / "data")
    return fit(
        data, folder / "run", source="toy", baseline="scratch", reporter=reporter, overwrite=True,
        crop_scale=0.7, hflip=False, strategy="frozen",
    )  # fmt: skip


def doctor() -> list[dict[str, Any]]:
    """Checks of this installation: {check, ok, detail, remedy}."""
    from headstart.doctor import checks

    return checks()
