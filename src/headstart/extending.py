"""The verb extend: a finished run and new pictures become a new model, without training the network again.

The run is only read. The new folder holds `model`, which every verb takes that takes a model, and extended.json,
written last: what was learned, by which way, what was measured, and what was not chosen anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import __version__, files, runfolder
from headstart._console_shipping import extension_rows
from headstart.errors import OutputError, UserError
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA, plain
from headstart.report.markup import sentence, table
from headstart.sealed import EXTENDED, places_of, read_data, read_sealed, run_of, together

if TYPE_CHECKING:
    from headstart.ship.learned import Learned
    from headstart.ship.model import Model
    from headstart.ship.recall import Album

__all__ = ["extend"]


def extend(
    run: str | Path,
    data: Any,
    *,
    out: str | Path,
    old_data: Any = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Teach a run's model new pictures or new classes, from what it kept of the old ones.

    Args:
        run: The folder of a run or of a model, an extended one too. It is only read.
        data: The new pictures, in any layout that `fit` takes; classes are matched by name, new names become classes.
        out: The folder to write, which must be empty or not there: `model` and extended.json.
        old_data: Where the run's data are now; None takes the place that the run recorded. Heads other than ridge need
            them where their features are no longer kept; what is left of them serves to measure forgetting.
        seed: Which new pictures are held back to judge with.
        reporter: Who is told where the work is; None tells nobody.

    Returns extended.json as a dict, with the `folder`. Raises ModelError when the model cannot be opened, DataError
    when the new pictures hold nothing new or the old ones are needed and not to be had, OutputError when `out` is
    taken.
    """
    from headstart.sources._importing import uncollected

    with uncollected():
        from headstart.ship.additions import read_additions
        from headstart.ship.evaluate import SEEN_DIGITS
        from headstart.ship.extend import extend_model
        from headstart.ship.model import find_model_folder, load

    told, target, place = reporter or Silent(), Path(out).expanduser(), find_model_folder(run)
    _check(target, data)
    model, home = load(place), Path(run).expanduser()
    album = _album(home, model.classes, old_data, told)
    learned = _learned(model, place, home, album, old_data)
    seen = {*model.facts.get("seen", ()), *(key[:SEEN_DIGITS] for key in learned.training.hashes)}
    more = read_additions(data, model.classes, seen=seen, reporter=told)
    made, facts = extend_model(model, learned, more, album=album, seed=seed, reporter=told)
    before = files.read_json(place / "headstart.json")
    found: dict[str, Any] = plain({
        "schema": SCHEMA, "headstart": __version__, "seed": seed, "command": _command(run, data, out, old_data, seed),
        "directory": Path.cwd(), "data": _places(home, old_data, more.path),
        "model": {"folder": place, "sha256": before["sha256"], "classes": made.classes}, **facts,
    })  # fmt: skip
    made.facts["extended"] = _summary(found, before.get("extended", ()))
    files.make_folder(target)
    with files.lock(target):
        _check(target, data)
        made.save(target / "model", readme=_readme(found, made))
        files.write_json(target / EXTENDED, found)
    return {"folder": str(target), **found}


def _places(run: Path, old_data: Any, new: str) -> list[str]:
    """Where all the data are, old ones first, be they there or not; what is in memory is nowhere."""
    found = [str(old_data)] if isinstance(old_data, (str, Path)) else []
    if not found:
        with suppress(UserError):
            found = places_of(run_of(run))
    return [path for path in dict.fromkeys([*found, new]) if path != "memory"]


def _command(run: Any, data: Any, out: Any, old_data: Any, seed: int) -> str | None:
    """The command line that does the same; None with data in memory."""
    if not all(isinstance(one, (str, Path, type(None))) for one in (data, old_data)):
        return None
    words = ["headstart", "extend", str(run), str(data), "--out", str(out)]
    words += [] if old_data is None else ["--old-data", str(old_data)]
    return shlex.join([*words, *(["--seed", str(seed)] if seed else [])])


def _check(target: Path, data: Any) -> None:
    """Raise OutputError unless a new folder can be made there."""
    if target.is_dir() and runfolder.content(target):
        raise OutputError("something stands there already", where=target, remedy="Choose another --out.")
    runfolder.check(target, overwrite=False, data=data)


def _album(run: Path, classes: Sequence[str], old_data: Any, reporter: Reporter) -> Album:
    """The old pictures: those of `old_data` and of the data that the run names; none where these are gone."""
    from headstart.data.facts import load_data
    from headstart.ship.recall import Album

    parts, why = [] if old_data is None else [load_data(old_data, fewest=1)], ""
    try:
        parts.append(read_data(run_of(run)))
    except UserError as error:
        why = error.what
    return Album(together(parts, classes), reporter=reporter) if parts else Album(None, why=why)


def _learned(model: Model, place: Path, run: Path, album: Album, old_data: Any) -> Learned:
    """What the model was made with; of one that an earlier headstart saved, what is found of it among the pictures."""
    from headstart.ship.learned import Known, Learned, read_learned

    found = read_learned(place)
    if found is not None:
        return found
    training, judged = album.seen(frozenset(model.facts.get("seen", ())), model.classes), Known.of()
    with suppress(UserError):  # the pictures are gone: then nothing is measured on them
        sealed = read_sealed(run_of(run), old_data)
        if sealed.held_out:
            places = {item.name: key for key, item in album.items.items()}
            rows = [(places.get(i.name), label) for i, label in zip(sealed.items, sealed.labels, strict=True)]
            judged = Known.of([key for key, _ in rows if key], [int(label) for key, label in rows if key])
    return Learned(training.without(judged), judged)


def _summary(found: Mapping[str, Any], earlier: Sequence[Any]) -> list[Any]:
    """What the model itself tells of its extensions, the last one at the end."""
    names = ("way", "exact", "classes", "forgetting", "held_back")
    return [*earlier, {"pictures": found["new"]["pictures"], **{name: found[name] for name in names}}]


def _readme(found: Mapping[str, Any], model: Model) -> str:
    """The model card."""
    names = ", ".join(model.classes[:8]) + (", …" if len(model.classes) > 8 else "")
    rows = [[name, sentence(text)] for name, text in extension_rows(found)]
    blocks = [
        f"# {sentence(f'A classifier of {len(model.classes)} classes: {names}')}",
        sentence(f"Built on {model.card.architecture} and extended with {found['new']['pictures']} new pictures."),
        table(["what", "how"], rows),
    ]
    return "\n\n".join(blocks) + "\n"
