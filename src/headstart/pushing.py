"""A finished run's model on the Hugging Face Hub: what is sent, with which card, and where to. No file is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart import files, runfolder
from headstart.errors import SettingsError
from headstart.progress import Reporter, Silent
from headstart.report.card import Shared, model_card
from headstart.report.footprint import CARBON, WATTS, footprint
from headstart.report.places import places_of

__all__ = ["push"]


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    token: str | None = None,
    watts: float = WATTS,
    carbon: float = CARBON,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Send a run's model, its card and its exports to a repository of the Hub, in one commit.

    Args:
        run: The folder of a run, or of a model; given RUN/model the exports stay here.
        repository: OWNER/NAME, with @BRANCH where another branch than the main one is meant; made where it is missing.
        private: Whether only you and the owner's members may see it; False: everybody.
        dry_run: Say what would be sent, and ask the Hub nothing.
        token: The Hub's token; None takes HF_TOKEN or that of `hf auth login`.
        watts: Watts of a busy core, for the card's estimate of energy.
        carbon: Grams of CO2 a kilowatt hour, for the card's estimate of carbon.
        reporter: Who is told where the work is; None tells nobody.

    Returns {repository, private, dry_run, files: [{name, bytes}], left_out, card}, and after a push `url` and `commit`.
    Raises ModelError when the model is damaged, SettingsError for a name that cannot be, and HubError when the Hub
    cannot be reached or refuses, or when the repository is public or holds something else.
    """
    from headstart.ship import push as sending
    from headstart.ship.hub import HUB, is_address, parts_of
    from headstart.ship.model import find_model_folder, load

    told = reporter or Silent()
    name, revision = parts_of(repository)
    if min(watts, carbon) < 0:
        raise SettingsError("watts and carbon must not be negative")
    if is_address(run):
        raise SettingsError("what is pushed must be a folder of this machine", remedy="Give the --out folder of a fit.")
    place = find_model_folder(run)
    with told.stage("Checking the model"):
        load(place)
    record, model = _record(place), files.read_json(place / "headstart.json")
    exports, left = sending.exports_of(Path(run).expanduser() / "exports", model["sha256"])
    address = f"{HUB}{name}" + (f"@{revision}" if revision else "")
    card = model_card(record, Shared(
        address, [sending.public(one.certificate) for one in exports],
        footprint(record, watts=watts, carbon=carbon), True, files.read_json(place / "config.json"),
    ))  # fmt: skip
    parts = sending.uploads(place, exports, card=card, places=places_of(record))
    made: dict[str, Any] = {
        "repository": address.removeprefix(HUB), "private": private, "dry_run": dry_run,
        "files": [{"name": part.name, "bytes": part.size} for part in parts], "left_out": left, "card": card,
    }  # fmt: skip
    for line in left:
        told.note(f"left out {line}")
    if model["head"]["kind"] == "knn":
        told.note("a knn head holds the features of every training picture: whoever gets the model gets them")
    if dry_run:
        return made
    for part in parts:
        told.say(f"{part.name}, {part.size:,} bytes")
    with told.stage(f"Sending it to {name}"):
        url, commit, hidden = sending.send(
            repository, parts, private=private, token=token, message=_message(record), reporter=told
        )
    return {**made, "private": hidden, "url": url, "commit": commit}


def _record(place: Path) -> dict[str, Any]:
    """run.json of the run whose own model this is; for any other model what headstart.json knows of it."""
    if place.name == "model" and (place.parent / "run.json").is_file():
        return runfolder.read(place.parent / "run.json")
    model: Mapping[str, Any] = files.read_json(place / "headstart.json")
    names = ("headstart", "source", "plan", "scores", "calibration", "reject")
    versions = {"environment": model.get("versions", {}), "data": {"classes": model["classes"]}}
    return {**{name: model[name] for name in names if name in model}, **versions}


def _message(record: Mapping[str, Any]) -> str:
    """The words of the commit."""
    from headstart.report.sentences import headline

    figures = headline(record).figures
    return f"Push a model made with headstart {record.get('headstart', '')}" + (f": {figures}" if figures else "")
