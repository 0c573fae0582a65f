"""Places of the user's machine, taken out of what is shown to others: of a path its last name stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from headstart.report.reading import records, table, text

__all__ = ["places_of", "without_places"]

_NAMES = frozenset(("classes", "class", "label_names", "per_class", "confused_with"))  # of classes, which may hold a /
_ABSOLUTE = re.compile(
    r"(?<![\w:/\\.~-])(?:~?/|[A-Za-z]:[/\\]|\\\\)(?:[^\s/\\'\"<>|,;:]+[/\\])+(?P<last>[^\s/\\'\"<>|,;:]*)"
)


def places_of(run: Mapping[str, Any]) -> list[str]:
    """The paths that a run's record names, the longest first."""
    told = [text(run, "data", "path"), text(run, "source", "address"), text(run, "source", "origin")]
    told += [part for name in ("source", "weights", "foreign") for part in _listed(table(run, "settings").get(name))]
    told += [text(row, "source") for key in ("race", "ranking") for row in records(run, key)]
    return sorted({place for place in told if _is_path(place)}, key=lambda place: (-len(place), place))


def without_places(value: Any, places: Iterable[str] = ()) -> Any:
    """A plain value in whose texts only the last name of each path is left; names of classes stay as they are."""
    if isinstance(value, Mapping):
        return {key: entry if key in _NAMES else without_places(entry, places) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(entry, places) for entry in value]
    if not isinstance(value, str):
        return value
    for place in places:
        value = value.replace(place, re.split(r"[/\\]", place.rstrip("/\\"))[-1])
    return _ABSOLUTE.sub(lambda found: found["last"], value)


def _listed(value: Any) -> list[str]:
    entries = value if isinstance(value, (list, tuple)) else [value]
    return [part.strip() for entry in entries if isinstance(entry, str) for part in entry.split(",")]


def _is_path(place: str) -> bool:
    """Whether a text is a path: it has a folder in it and no scheme such as timm: or https:."""
    return ("/" in place or "\\" in place) and not re.match(r"[A-Za-z][\w+-]+:", place)
