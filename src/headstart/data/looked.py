"""What the audit saw of a picture, kept by the hash of its bytes: the same bytes are decoded once and never again.

Only what was readable is kept; what was not is looked at anew. No torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from headstart.data.store import ArrayStore
from headstart.errors import OutputError

__all__ = ["VERSION", "LookedAt", "Seen"]

VERSION = 1
"""Part of the key: raised whenever the audit sees a picture otherwise."""

_TOGETHER = 4_096  # findings that are written together
_PRINT, _ROW = 96, 288  # bytes of a fingerprint, and of a row: a fingerprint, then JSON, filled up with zeros


@dataclass(frozen=True, slots=True)
class Seen:
    """What one picture showed."""

    reason: str = ""  # why it is unreadable
    sha256: str = ""
    mode: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    oddity: str = ""
    fingerprint: bytes = b""


class LookedAt:
    """The findings of earlier audits. `bound` is how much may be kept in all, as for every store."""

    def __init__(self, *, bound: str | int | None = None) -> None:
        key = {"what": "audit", "version": VERSION, "dtype": "uint8", **_decoders()}
        self._store = ArrayStore(key, kind="seen", bound=bound)
        self._new: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def find(self, hashes: Sequence[str]) -> list[Seen | None]:
        """What is known of pictures by the sha256 of their bytes; None where nothing is."""
        found = self._store.find(hashes)
        return [_seen(found[i], name) if found.there[i] else None for i, name in enumerate(hashes)]

    def add(self, seen: Seen) -> None:
        """Keep a finding, from the next `save` on, which comes by itself from time to time. Threads may call it."""
        row = _row(seen)
        if seen.reason or row is None:
            return
        with self._lock:
            self._new[seen.sha256] = row
            full = len(self._new) >= _TOGETHER
        if full:
            self.save()

    def save(self) -> None:
        """Write the new findings. Where there is no room they are not kept, and the pictures are looked at again."""
        with self._lock:
            new, self._new = self._new, {}
        with suppress(OutputError):
            if new:
                self._store.put(list(new), np.stack(list(new.values())))


def _decoders() -> dict[str, str]:
    """The versions of what decodes: another one may see another picture."""
    found = {}
    for package in ("pillow", "simplejpeg"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _row(seen: Seen) -> np.ndarray | None:
    """A finding as bytes; None where it is too long for a row."""
    facts = asdict(replace(seen, fingerprint=b"", sha256=""))
    facts["fingerprint"] = bool(seen.fingerprint)
    text = json.dumps(facts, separators=(",", ":")).encode()
    if len(text) > _ROW - _PRINT or len(seen.fingerprint) not in (0, _PRINT):
        return None
    return np.frombuffer(seen.fingerprint.ljust(_PRINT, b"\0") + text.ljust(_ROW - _PRINT, b"\0"), np.uint8)


def _seen(row: np.ndarray, sha256: str) -> Seen | None:
    """The finding of a row; None where the row does not say one."""
    data = row.tobytes()
    try:
        facts = json.loads(data[_PRINT:].rstrip(b"\0"))
        fingerprint = data[:_PRINT] if facts.pop("fingerprint") else b""
        return Seen(**{**facts, "sha256": sha256, "fingerprint": fingerprint})
    except (ValueError, KeyError, TypeError):
        return None
