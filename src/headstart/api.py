"""The stages in order: what the command line and Python call.

Every option of a run is a keyword here, a flag of the command and a key of the recorded settings (see `Settings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import files, runfolder
from headstart.errors import OutputError, RunError, SettingsError, did_you_mean
from headstart.progress import Reporter, Silent
from headstart.running import Job, RunResult, carry_out
from headstart.settings import STRATEGIES, Settings

if TYPE_CHECKING:
    from PIL.Image import Image


__all__ = [
    "RunResult",
    "advise",
    "cache",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "fit",
    "inspect",
    "predict",
    "rank_sources",
    "resume",
    "sample",
    "sources",
    "subset",
]


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

    Args:
        data: A folder or manifest, a pair (pictures, labels), or a Dataset. It is only read.
        out: The run folder to write; None writes nothing.
        settings: Options as one record; its defaults are used where it is None.
        reporter: Who is told where the work is; None tells nobody.
        overwrite: Replace the run that stands in `out`. Files there that are not the run's stay.
        **options: Any field of Settings, for example source="toy" or strategy="full".

    Returns the run's record and its Model. Raises a UserError when the data, the source, the options or the folder
    cannot be used, and Interrupted on Ctrl-C or SIGTERM.
    """
    wanted = (settings or Settings()).changed(**options)
    return carry_out(Job("fit", data, wanted), out, reporter=reporter, overwrite=overwrite)


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
    """Run several strategies on the same splits and keep the one that is best on validation.

    Args:
        data: A folder or manifest, a pair (pictures, labels), or a Dataset. It is only read.
        out: The run folder to write; None writes nothing.
        strategies: Which to race; None races all five.
        settings: Options as one record, the same for every strategy.
        reporter: Who is told where the work is; None tells nobody.
        overwrite: Replace the run that stands in `out`.
        **options: Any field of Settings. `refit` is off unless given, so that all are trained on the same items.

    Returns the record and Model of the best; its `race` has a row for each strategy. Raises what `fit` raises.
    """
    wanted = (settings or Settings()).changed(**{"refit": False, **options})
    given = [strategies] if isinstance(strategies, str) else strategies
    names = tuple(dict.fromkeys(given or STRATEGIES))
    for name in names:
        if name not in STRATEGIES:
            raise SettingsError(f"unknown strategy {name!r}", remedy=did_you_mean(name, list(STRATEGIES)))
    return carry_out(Job("compare", data, wanted, names), out, reporter=reporter, overwrite=overwrite)


def resume(run: str | Path, *, reporter: Reporter | None = None) -> RunResult:
    """Go on with an interrupted run; a finished one is returned as it is and no byte of it changes.

    Args:
        run: The --out folder of `fit` or `compare`.
        reporter: Who is told where the work is; None tells nobody.

    Raises RunError when no run was started there, or when its data, source or plan are no longer what they were.
    """
    folder = Path(run).expanduser()
    if not (folder / "settings.json").is_file():
        remedy = "Give the --out folder of `headstart fit`."
        if folder.is_dir() and not runfolder.content(folder):  # stopped before it had begun
            remedy = "Give the `headstart fit` command again."
        raise RunError("no run was started here", where=folder, remedy=remedy)
    if (folder / "run.json").is_file():
        from headstart.ship.model import load

        (reporter or Silent()).say(f"{folder} is finished: nothing to do")
        return RunResult(folder, runfolder.read(folder / "run.json"), load(folder))
    started = runfolder.read(folder / "settings.json")
    if started["data"] is None:
        raise RunError(
            "the run was started from Python with data in memory",
            where=folder,
            remedy="Call headstart.fit with the same data and overwrite=True.",
        )
    base, options = Path(started["directory"]), dict(started["settings"])
    options.update({name: runfolder.anchored(options[name], base) for name in ("source", "weights")})
    job = Job(
        started["verb"],
        runfolder.anchored(started["data"], base),
        Settings.of(**options),
        tuple(started["strategies"]),
        True,
        started["begun"],
    )
    return carry_out(job, folder, reporter=reporter)


# --- looking at data ----------------------------------------------------------------------------------------------


def inspect(data: Any, *, group: str | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """What is in the data: classes, splits, skipped files, duplicates, leaks, sizes, warnings. Imports no torch.

    `group` names the column whose items belong together, as in `fit`.
    """
    from headstart.data.audit import audit
    from headstart.data.facts import counting, data_facts, load_data

    dataset = load_data(data, group=group)
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


def rank_sources(
    data: Any, sources: Sequence[str] | None = None, *, folders: Sequence[str | Path] = (), items: int = 2_000,
    settings: Settings | None = None, reporter: Reporter | None = None, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Sources by how well their frozen features fit the training items of `data`, best first; no test item is seen.

    `sources` are addresses (None: those that open without a network, in `folders` too); `items` are looked at, the
    classes in proportion; options are fields of Settings. Gives rows {source, logme, h_score, items, of, probe,
    parameters, seconds}, and {source, error} for what cannot be used. Raises a UserError when nothing can be ranked.
    """
    from headstart import advising

    wanted, named = (settings or Settings()).changed(**options), sources
    named = advising.local_sources(folders) if named is None else named
    return advising.rank_sources(data, named, settings=wanted, reporter=reporter or Silent(), items=items)


def advise(
    data: Any, *, items: int = 2_000, settings: Settings | None = None, reporter: Reporter | None = None, **options: Any
) -> dict[str, Any]:
    """Where `data` stand in size and in likeness to the source's own, and what that suggests: a prior, no verdict.

    The likeness is measured on `items` training items at most; options are fields of Settings, for example
    source="toy". Gives {data, source, seconds, advice}. Raises a UserError when data or source cannot be used.
    """
    from headstart import advising

    wanted = (settings or Settings()).changed(**options)
    return advising.advise(data, settings=wanted, reporter=reporter or Silent(), items=items)


# --- using a model --------------------------------------------------------------------------------------------


def predict(
    run: str | Path, files: Any, *, top_k: int | None = None, engine: str = "auto", device: str = "auto",
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Answers of a run's model: one dict a picture, {file, label, probability, probabilities} or {file, error}.

    Args:
        run: The folder of a run, of a model or of an export.
        files: Files, folders, PIL images or arrays, one or a list; the answers keep their order.
        top_k: Give only so many of the most probable classes; None gives all.
        engine: What computes: "torch", or "onnx" or "openvino" for an export of that kind. "auto" takes the ONNX fp32
            export where there is one of this model that is certified and faster on this processor, else torch.
        device: Where torch computes: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps". Exports
            compute on the CPU, so "cuda" and "mps" take none.
        reporter: Who is told where the work is; None tells nobody.

    Raises ModelError when the model cannot be opened or was not exported, DataError when a path does not exist.
    """
    from headstart.shipping import answering

    model = answering(run, engine, device=device, reporter=reporter)
    return [answer.as_dict(top_k) for answer in model.predict(files, reporter=reporter)]


def evaluate(
    run: str | Path, data: Any, *, split: str | None = None, device: str = "auto", reporter: Reporter | None = None
) -> dict[str, Any]:
    """Scores of a run's model on labelled data, classes matched by name.

    Args:
        run: The folder of a run or of a model.
        data: A folder or manifest, a pair (pictures, labels), or a Dataset; some of the model's classes are enough.
        split: train, val, test or all; None takes test where there is one, else val, else all.
        device: Where it computes, as for predict.
        reporter: Who is told where the work is; None tells nobody.

    Returns the fields of Scores with `split`, `classes`, `skipped` and `seen`, the number of pictures that the model
    was made with; where there are some, `unseen` holds the scores on the others. Raises DataError when the data hold a
    class that the model does not know, or no such split.
    """
    from headstart.data.facts import load_data
    from headstart.ship.evaluate import evaluate_model
    from headstart.ship.model import load

    return evaluate_model(load(run).to(device), load_data(data, fewest=1), split=split, reporter=reporter)


def demo(out: str | Path, *, reporter: Reporter | None = None) -> RunResult:
    """Transfer against scratch with few images a class, on data and a source that come with the package.

    Writes the data into `out`/data and the run into `out`/run. Raises OutputError when something else stands in `out`.
    """
    from headstart.demo import is_digits, write_digits

    folder = Path(out).expanduser()
    runfolder.check(folder / "run", overwrite=True)
    if folder.is_dir() and not (runfolder.content(folder) <= {"data", "run"} and is_digits(folder / "data")):
        raise OutputError("the folder is not empty and no demo", where=folder, remedy="Choose another --out.")
    data = write_digits(folder / "data")
    return fit(
        data, folder / "run", source="toy", scratch=True, reporter=reporter, overwrite=True,
        crop_scale=0.7, hflip=False, strategy="frozen",
    )  # fmt: skip


def cache(
    *, prune: bool = False, to: str | int | None = None, clear: bool = False, kind: str | None = None
) -> dict[str, Any]:
    """What is kept on disk between runs, the last used first; `removed` is what this call removed.

    Args:
        prune: Remove the least recently used until at most `to` are kept.
        to: A size such as "2GB"; default: the bound that a run without --cache-size has.
        clear: Remove everything, of `kind` where it is given.
        kind: Look at "features", "decoded" or "engines" alone.

    Raises SettingsError for options that cannot stand together or a size that is none.
    """
    from headstart.data import cache as kept
    from headstart.settings import bytes_of

    if kind is not None and kind not in kept.KINDS:
        raise SettingsError(f"there is no kind {kind!r} of kept data", remedy=did_you_mean(kind, list(kept.KINDS)))
    if (prune and (clear or kind is not None)) or (to is not None and not prune):
        raise SettingsError("--to belongs to --prune, and --prune looks at all kinds: give it alone or with --to")
    bound = kept.limit_of(None)
    gone = kept.clear(kind) if clear else kept.prune(bytes_of(to) if to is not None else bound) if prune else []
    left = kept.entries(kind)
    return {
        "folder": str(files.home()),
        "bound": bound,
        "total": sum(entry.bytes for entry in left),
        "entries": [kept.described(entry) for entry in reversed(left)],
        "removed": [kept.described(entry) for entry in reversed(gone)],
    }


def doctor() -> list[dict[str, Any]]:
    """Checks of this installation: {check, ok, detail, remedy}."""
    from headstart.doctor import checks

    return checks()
