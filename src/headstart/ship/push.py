"""What of a model goes to the Hugging Face Hub, and how: one commit of the model's own files, never of anything else.

Paths of the user's machine are taken out of headstart.json and of the certificates, and what `extend` would need stays
here: it tells of every training picture. README.md may be edited on the Hub,
so it is not among the files that are checked when the model is opened from there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import files
from headstart.errors import HubError, ModelError
from headstart.progress import Reporter
from headstart.report.places import without_places
from headstart.ship.exported import CERTIFICATE, read_certificate
from headstart.ship.hub import parts_of, talking
from headstart.ship.learned import LEARNED, STATISTICS
from headstart.ship.model import record_bytes

__all__ = ["Export", "Upload", "exports_of", "public", "send", "uploads"]

_RECORD = "headstart.json"
_KEPT = ("classes", "golden", "seen", "files", "scores", "sha256")  # its parts in which no path stands
_GIVEN = {".gitattributes", "README.md"}  # what the Hub puts into a new repository


@dataclass(frozen=True, slots=True)
class Upload:
    """One file to send: its name in the repository, and its bytes or where they are."""

    name: str
    data: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size


@dataclass(frozen=True, slots=True)
class Export:
    """An export of a model: its folder and its certificate."""

    folder: Path
    certificate: Mapping[str, Any]

    @property
    def name(self) -> str:
        """TO-PRECISION."""
        return f"{self.certificate['export']['to']}-{self.certificate['export']['precision']}"


def exports_of(folder: Path, sha256: str) -> tuple[list[Export], list[str]]:
    """The exports in a folder of the model with this hash, and why others are left out.

    Raises ModelError when a file is not the one that was certified.
    """
    found: list[Export] = []
    left = []
    for file in files.listed(folder, f"*/{CERTIFICATE}"):
        one = Export(file.parent, read_certificate(file.parent))
        if one.certificate["model"].get("sha256") != sha256:
            left.append(f"{file.parent.name}: it was made of another model")
        elif one.certificate["export"]["to"] == "torch":
            left.append(f"{file.parent.name}: such a file names the places of Python's files on this machine")
        elif any(one.name == other.name for other in found):
            left.append(f"{file.parent.name}: a second {one.name}")
        else:
            _check(one)
            found.append(one)
    return found, left


def _check(export: Export) -> None:
    for name, wanted in export.certificate["export"]["files"].items():
        place = export.folder / name
        if Path(name).name != name or not place.is_file() or files.hash_file(place) != wanted["sha256"]:
            raise ModelError(
                "the file is not the one that was certified", where=place, remedy="Export the model again."
            )


def uploads(place: Path, exports: Sequence[Export], *, card: str, places: Sequence[str]) -> tuple[Upload, ...]:
    """The files to send of the model folder `place`: those that headstart.json names, with this card, and exports."""
    record = files.read_json(place / _RECORD)
    kept = {name: sha256 for name, sha256 in record["files"].items() if name not in ("README.md", LEARNED, STATISTICS)}
    told = {name: part for name, part in record.items() if name in _KEPT}
    told |= without_places({name: part for name, part in record.items() if name not in _KEPT}, places)
    data = record_bytes({**told, "files": kept})
    made = [Upload("README.md", files.text_bytes(card)), Upload(_RECORD, data)]
    made += [Upload(name, place / name) for name in kept]
    sha256 = json.loads(data)["sha256"]
    for export in exports:
        certificate = {**public(export.certificate, places)}
        certificate["model"] = {**certificate["model"], "sha256": sha256}
        root = f"exports/{export.name}"
        made.append(Upload(f"{root}/{CERTIFICATE}", files.text_bytes(files.json_text(certificate))))
        made += [Upload(f"{root}/{name}", export.folder / name) for name in export.certificate["export"]["files"]]
    return tuple(made)


def public(certificate: Mapping[str, Any], places: Sequence[str] = ()) -> dict[str, Any]:
    """A certificate without the user's paths and without names of pictures: `other_answers` counts them."""
    told: dict[str, Any] = without_places(certificate, places)
    whole = dict(told.get("whole", {}))
    told["whole"] = {**whole, "flipped": [], "other_answers": len(whole.get("flipped", ()))}
    return told


# --- sending --------------------------------------------------------------------------------------------------------


def send(
    repository: str,
    parts: Sequence[Upload],
    *,
    private: bool,
    token: str | None,
    message: str,
    reporter: Reporter,
) -> tuple[str, str, bool]:
    """Send files to [hf-hub:]OWNER/NAME[@REVISION] in one commit; its address, its hash, and whether it is private.

    Raises HubError when the Hub cannot be reached or refuses, when the repository holds something else, or when it is
    public and was not to be. What a push before left of exports and is not sent now is removed in the same commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
    from huggingface_hub.errors import LocalTokenNotFoundError

    name, revision = parts_of(repository)
    with talking(name, do="write"), _quiet(reporter):
        if token is None and get_token() is None:
            raise LocalTokenNotFoundError
        api = HfApi(endpoint=constants.ENDPOINT, token=token)
        there, hidden = _prepare(api, name, revision=revision, private=private, reporter=reporter)
        sent = {part.name for part in parts}
        stale = [old for old in there if _ours(old) and old not in sent]
        adds = [
            CommitOperationAdd(part.name, part.data if isinstance(part.data, bytes) else str(part.data))
            for part in parts
        ]
        done = api.create_commit(
            name, [*adds, *map(CommitOperationDelete, stale)], commit_message=message, revision=revision
        )
        return f"{constants.ENDPOINT}/{name}", str(done.oid), hidden


def _prepare(api: Any, name: str, *, revision: str | None, private: bool, reporter: Reporter) -> tuple[list[str], bool]:
    """The files that stand in the repository, which is made where there is none, and whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, private=private)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        return [], private
    if private and not found.private:
        raise HubError(
            "the repository is public: what is sent there everybody can see",
            where=name,
            remedy="Give --public if you mean it, or another name.",
        )
    if found.private and not private:
        reporter.note(f"{name} is private and stays so: its settings on the Hub make it public")
    if revision is not None:
        try:
            found = api.model_info(name, revision=revision)
        except RevisionNotFoundError:
            api.create_branch(name, branch=revision, exist_ok=True)
    there = [file.rfilename for file in found.siblings or ()]
    if _RECORD not in there and not {*there} <= _GIVEN:
        other = sorted({*there} - _GIVEN)[0]
        raise HubError(
            f"the repository holds something else: {other}", where=name, remedy="Choose another name, or empty it."
        )
    return there, bool(found.private)


def _ours(name: str) -> bool:
    """Whether a file of a repository is one that a push writes and that not every push writes."""
    return name == "reject.safetensors" or (name.startswith("exports/") and name.count("/") == 2)


@contextmanager
def _quiet(reporter: Reporter) -> Iterator[None]:
    """Without the Hub client's own bars; its warnings become notes."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if issubclass(one.category, UserWarning):
                reporter.note(" ".join(str(one.message).split()))
    finally:
        if not off:
            enable_progress_bars()
