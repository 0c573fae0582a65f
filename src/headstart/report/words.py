"""How a report writes names, numbers and times. Pure functions over plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "begun",
    "clean",
    "count",
    "duration",
    "listed",
    "network_name",
    "p_value",
    "percent",
    "plural",
    "rate",
    "score",
    "short_hash",
    "shown",
    "signed",
]

_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code < 0xA0:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x2028 <= code <= 0x2069:
        return f"[U+{code:04X}]"
    return "\ufffd"


def clean(text: object) -> str:
    """Make a name harmless: control characters, direction overrides and broken bytes become visible signs.

    The result can always be written as UTF-8 and stands in one line.
    """
    return _ODD.sub(_visible, str(text))


def score(value: float | None) -> str:
    """A share between 0 and 1 with three decimals; a dash when it is missing."""
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share between 0 and 1 as a percentage with one decimal, kept on one line; a dash when it is missing."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def p_value(value: float | None) -> str:
    """The p of a test with three decimals, "below 0.001" when it is smaller; a dash when it is missing."""
    return "below 0.001" if value is not None and value < 0.001 else score(value)


def begun(sentence: str) -> str:
    """A sentence that begins with a capital letter."""
    return sentence[:1].upper() + sentence[1:]


def signed(value: float | None, decimals: int = 1) -> str:
    """A difference with its sign and a true minus."""
    return "–" if value is None else f"{value:+.{decimals}f}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with commas; a dash when it is missing."""
    if isinstance(value, int):  # of any size, which a float is not
        return f"{value:,}"
    return "–" if value is None else f"{value:,.0f}"


def plural(n: float, one: str, many: str = "") -> str:
    """A count with its noun: "1 image", "12 images"."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def rate(value: float | None) -> str:
    """A learning rate or strength in as few digits as it needs."""
    return "–" if value is None else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """A time in the unit that a person would use."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names as a sentence lists them: "a, b and c"; a long list ends in "and 12 more"."""
    names = [str(name) for name in names]
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {count(len(names) - most + 1)} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def short_hash(value: object) -> str:
    """The first twelve signs of a hash, enough to compare by eye."""
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"


def shown(value: Any) -> str:
    """Any plain value as a reader wants to see it, on one line."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return rate(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {shown(entry)}" for name, entry in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return ", ".join(shown(entry) for entry in value) or "–"
    return str(value)


def network_name(address: str) -> str:
    """A source as people say it: the last part of a path or address, without timm: or the like."""
    return address.rstrip("/").rpartition("/")[2].rpartition(":")[2] or address
