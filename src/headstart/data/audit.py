"""Decode every item once and tell what was found: unreadable files, duplicates, leaks, balance, odd pictures.

Nothing is repaired, moved or deleted. Files are read in threads (Pillow works outside the interpreter lock); at most a
few pictures a thread are in memory at any time.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data import near
from headstart.data.cores import default_workers
from headstart.data.decode import examine, read_bytes
from headstart.data.looked import LookedAt, Seen
from headstart.errors import DataError, UnreadableImage
from headstart.files import hash_bytes
from headstart.records import Dataset, Facts, Item, Skipped

__all__ = ["FEW_ITEMS", "IMBALANCE", "audit", "confirmed", "odd", "stop_if_hopeless"]

IMBALANCE = 5.0
"""A largest class of more than this many times the smallest is warned about."""

FEW_ITEMS = 10
"""A class with fewer training items is warned about."""

_TOGETHER = 16  # items that a thread takes in one go
_HELD = 8 << 20  # bytes of encoded pictures that a thread holds until it looks them up
_DRAFT = 32  # shortest side at which JPEGs are decoded here: all bytes are still read, so cut files are still found
_FLAT = 2  # levels of difference within which pixels count as one colour (JPEG noise)
_LOWER = 1 / 3  # share of rows at the lower edge, all of one colour, from which a picture counts as half empty
_ROWS = 0.75  # share of one-coloured rows anywhere

Progress = Callable[[int, int], None]


def audit(
    dataset: Dataset,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    known: LookedAt | None = None,
    fewest: int = 2,
) -> tuple[Dataset, Facts]:
    """Decode every item in full, in threads; give the data set without the unreadable items, and the Facts.

    Every item is read and hashed; what `known` tells of its bytes is not decoded again, and gains what is new.

    Unreadable items go to `Dataset.skipped`; a class that loses all of its items is dropped with a warning. `progress`
    is called with (done, all) from the calling thread. Raises DataError when no item is readable, when more than half
    are unreadable for one cause, or when fewer than `fewest` classes remain.
    """
    if not dataset.items:
        raise DataError(
            "no pictures to look at", where=dataset.path, remedy="Give a folder or manifest that holds some."
        )
    seen: list[Seen] = []
    for one in _looked_at(dataset.items, workers or default_workers(), known):
        seen.append(one)
        if progress is not None:
            progress(len(seen), len(dataset.items))
    if known is not None:
        known.save()
    stop_if_hopeless(dataset.path, [(item.name, one.reason) for item, one in zip(dataset.items, seen, strict=True)])
    skipped = tuple(Skipped(item.name, one.reason) for item, one in zip(dataset.items, seen, strict=True) if one.reason)
    readable = tuple(item for item, one in zip(dataset.items, seen, strict=True) if not one.reason)
    clean, warnings = _without_empty_classes(dataset.with_items(readable, skipped=dataset.skipped + skipped), fewest)
    found = {item.name: one for item, one in zip(dataset.items, seen, strict=True)}
    return clean, _facts(clean, found, warnings)


def confirmed(
    dataset: Dataset,
    facts: Facts,
    features: npt.NDArray[np.float32],
    *,
    names: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Facts:
    """The Facts with the cropped and turned near-duplicates too: candidates whose features (n, d) are alike.

    The rows stand in the order of `names` (None: all items); `pairs` are the candidates, of these names (None: they are
    looked for). No label is looked at, so it may be done before the split.
    """
    names = [item.name for item in dataset.items] if names is None else names
    if pairs is None:
        pairs = near.candidates({name: facts.fingerprints[name] for name in names})
    pairs = near.confirm(pairs, features, names=names)
    if not pairs:
        return facts
    alike = _alike(dataset, facts.hashes, near.joined(facts.near_duplicates, pairs))
    old = _near_warnings(facts.near_duplicates, facts.near_leaks, facts.near_contradictions)
    warnings = [text for text in facts.warnings if text not in old]
    return replace(
        facts, near_duplicates=alike[0], near_leaks=alike[1], near_contradictions=alike[2], near_confirmed=len(pairs),
        warnings=(*warnings, *_near_warnings(*alike)),
    )  # fmt: skip


def odd(pixels: npt.NDArray[np.uint8]) -> str:
    """Why a picture (H×W×3) looks broken though it can be decoded, or "": one colour, or a large empty part."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # rows of one channel in a line: five times as fast
    high, low = planes.max(axis=2), planes.min(axis=2)
    flat = (high - low).max(axis=0) <= _FLAT
    if not flat.any():  # as in nearly every photo: what follows asks for flat rows
        return ""
    if int((high.max(axis=1) - low.min(axis=1)).max()) <= _FLAT:
        return "one colour all over"
    height = len(pixels)
    like_last = np.abs(pixels[:, 0].astype(np.int16) - pixels[-1, 0]).max(axis=1) <= _FLAT
    ends = np.flatnonzero(~(flat & like_last))
    below = height - 1 - int(ends[-1]) if len(ends) else height
    if height >= 8 and below >= _LOWER * height:
        return f"the lower {100 * below / height:.0f} % is one colour"
    if height >= 8 and flat.mean() >= _ROWS:
        return f"{100 * flat.mean():.0f} % of the rows are of one colour"
    return ""


def _look(name: str, data: bytes, *, sha256: str, known: LookedAt | None) -> Seen:
    try:
        picture = examine(data, name, draft=_DRAFT)
    except UnreadableImage as error:
        return Seen(reason=error.reason)
    seen = Seen(
        "", sha256, picture.mode, picture.format, picture.width, picture.height,
        odd(picture.pixels), near.fingerprint(picture.pixels),
    )  # fmt: skip
    if known is not None:
        known.add(seen)
    return seen


def _look_at(items: Sequence[Item], known: LookedAt | None) -> list[Seen]:
    """Several items in one go: handing over a small picture takes as long as decoding it."""
    seen: list[Seen] = []
    waiting: list[tuple[Item, bytes | str]] = []  # an item's bytes, or why there are none
    for number, item in enumerate(items, 1):
        try:
            waiting.append((item, read_bytes(item)))
        except UnreadableImage as error:
            waiting.append((item, error.reason))
        if number == len(items) or sum(len(data) for _, data in waiting) > _HELD:
            seen += _told_of(waiting, known)
            waiting.clear()
    return seen


def _told_of(contents: Sequence[tuple[Item, bytes | str]], known: LookedAt | None) -> Iterator[Seen]:
    """What is known of some pictures by their bytes, or else what a look at them shows."""
    hashes = [hash_bytes(data) for _, data in contents if isinstance(data, bytes)]
    before = zip(hashes, known.find(hashes) if known is not None else [None] * len(hashes), strict=True)
    for item, data in contents:
        if isinstance(data, str):
            yield Seen(reason=data)
            continue
        sha256, old = next(before)
        yield old if old is not None else _look(item.name, data, sha256=sha256, known=known)


def _looked_at(items: Sequence[Item], workers: int, known: LookedAt | None) -> Iterator[Seen]:
    """The items' findings in their order, with a bounded number under way; the new ones are added to `known`."""
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="audit")
    try:
        waiting: deque[Future[list[Seen]]] = deque()
        for start in range(0, len(items), _TOGETHER):
            waiting.append(pool.submit(_look_at, items[start : start + _TOGETHER], known))
            if len(waiting) >= 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stop_if_hopeless(path: str, looked: Sequence[tuple[str, str]]) -> None:
    """Raise when going on would hide one mistake behind thousands of skipped files.

    `looked` are the names of all items of the data at `path`, each with the reason why it is unreadable, or "".
    """
    bad = [(name, reason) for name, reason in looked if reason]
    if not bad:
        return
    causes = Counter(_cause(reason) for _, reason in bad)
    cause, count = causes.most_common(1)[0]
    name, reason = next((name, reason) for name, reason in bad if _cause(reason) == cause)
    if 2 * count > len(looked) or len(bad) == len(looked):
        told = f"{len(bad)} of {len(looked)} pictures cannot be read, {count} of them for one cause"
        raise DataError(f"{told}: {reason}, as in {name}", where=path, remedy=_remedy(cause))


def _cause(reason: str) -> str:
    """The reason without the details that differ from file to file."""
    return re.sub(r"\d+|\(.*", "#", reason)


def _remedy(cause: str) -> str:
    if "Git LFS" in cause:
        return "Fetch the pictures with: git lfs pull"
    if "no such file" in cause:
        return "Check the paths: they are relative to the folder of the manifest"
    if "permission" in cause:
        return "Make the files readable for this user"
    if "not a picture" in cause:
        return "Look into one of the files: a failed download often leaves an error page"
    if "empty" in cause or "truncated" in cause:
        return "Copy or download the files again"
    return "Look at one of the files, and replace or convert them"


def _without_empty_classes(dataset: Dataset, fewest: int) -> tuple[Dataset, list[str]]:
    """Drop the classes that have nothing left to learn from; the others keep their order."""
    learn = [item for item in dataset.items if item.split in ("train", "")] or list(dataset.items)
    alive = {item.label for item in learn}
    gone = [name for index, name in enumerate(dataset.classes) if index not in alive]
    if not gone:
        return dataset, []
    if len(dataset.classes) - len(gone) < fewest:
        least = "two classes" if fewest == 2 else "one class"
        raise DataError(
            f"no readable picture of {', '.join(map(repr, gone[:5]))}: fewer than {least} remain",
            where=dataset.path,
            remedy="Replace the unreadable files",
        )
    kept = [index for index in range(len(dataset.classes)) if index in alive]
    new = {old: number for number, old in enumerate(kept)}
    items = tuple(
        replace(item, label=None if item.label is None else new[item.label])
        for item in dataset.items
        if item.label is None or item.label in new
    )
    lost = len(dataset.items) - len(items)
    warning = f"no readable picture to learn {', '.join(map(repr, gone[:5]))} from: dropped" + (
        f", with {lost} of its pictures in other splits" if lost else ""
    )
    return dataset.with_items(items, classes=tuple(dataset.classes[index] for index in kept)), [warning]


def _facts(dataset: Dataset, seen: Mapping[str, Seen], warnings: list[str]) -> Facts:
    times = Counter(seen[item.name].sha256 for item in dataset.items)
    same: dict[str, list[Item]] = {}
    for item in dataset.items:
        if times[seen[item.name].sha256] > 1:  # a list for each of many items would take more than all else here
            same.setdefault(seen[item.name].sha256, []).append(item)
    copies = list(same.values())
    del times
    duplicates = _named(copies)
    leaks = _named([group for group in copies if len({item.split for item in group}) > 1])
    contradictions = _named([group for group in copies if len({item.label for item in group}) > 1])
    hashes = {item.name: seen[item.name].sha256 for item in dataset.items}
    alike = _alike(dataset, hashes, near.groups({name: one.fingerprint for name, one in seen.items()}))
    group_leaks = _group_leaks(dataset)
    counts = _counts(dataset)
    learn = counts.get("train", dict.fromkeys(dataset.classes, 0))
    if "train" not in counts:
        learn = {name: sum(split[name] for split in counts.values()) for name in dataset.classes}
    smallest = min(learn.values())
    imbalance = max(learn.values()) / smallest if smallest else float("inf")
    suspicious = tuple(Skipped(item.name, seen[item.name].oddity) for item in dataset.items if seen[item.name].oddity)
    warnings = [
        *warnings,
        *_balance_warnings(learn, imbalance),
        *_copy_warnings(duplicates, leaks, contradictions),
        *_near_warnings(*alike),
        *_group_warnings(group_leaks),
        *_file_warnings(dataset.skipped, suspicious),
    ]
    return Facts(
        n_items=len(dataset.items),
        classes=dataset.classes,
        splits=counts,
        skipped=dataset.skipped,
        duplicates=duplicates,
        leaks=leaks,
        contradictions=contradictions,
        sizes=_sizes([seen[item.name] for item in dataset.items]),
        imbalance=imbalance,
        warnings=tuple(warnings),
        hashes=hashes,
        suspicious=suspicious,
        near_duplicates=alike[0],
        near_leaks=alike[1],
        near_contradictions=alike[2],
        group_leaks=group_leaks,
        fingerprints={name: one.fingerprint for name, one in seen.items()},
    )


_Groups = tuple[tuple[str, ...], ...]


def _alike(dataset: Dataset, hashes: Mapping[str, str], groups: _Groups) -> tuple[_Groups, _Groups, _Groups]:
    """The near-duplicates that are not one file over and over; those in several splits; those with several labels."""
    item = {one.name: one for one in dataset.items}
    found = tuple(group for group in groups if len({hashes[name] for name in group}) > 1)
    leaks = tuple(group for group in found if len({item[name].split for name in group}) > 1)
    return found, leaks, tuple(group for group in found if len({item[name].label for name in group}) > 1)


def _group_leaks(dataset: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The groups of the data set that stand in more than one split, with these splits."""
    splits: dict[str, set[str]] = {}
    for item in dataset.items:
        if item.group is not None:
            splits.setdefault(item.group, set()).add(item.split or "train")  # where seal puts those without a split
    order = ("train", "val", "test")
    return tuple(
        (group, tuple(name for name in order if name in where))
        for group, where in sorted(splits.items())
        if len(where) > 1
    )


def _named(groups: Sequence[Sequence[Item]]) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted(tuple(sorted(item.name for item in group)) for group in groups))


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Split → class → items; the items without a split stand under "unsplit"."""
    tally = Counter((item.split, item.label) for item in dataset.items)
    return {
        split or "unsplit": {name: tally[split, index] for index, name in enumerate(dataset.classes)}
        for split in dataset.splits
    }


def _sizes(seen: Sequence[Seen]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for side in ("width", "height"):
        values = np.array([getattr(one, side) for one in seen])
        sizes[side] = {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
    sizes["modes"] = dict(sorted(Counter(one.mode for one in seen).items()))
    sizes["formats"] = dict(sorted(Counter(one.format for one in seen).items()))
    return sizes


def _balance_warnings(counts: Mapping[str, int], imbalance: float) -> list[str]:
    warnings = []
    if imbalance > IMBALANCE:
        large, small = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        warnings.append(
            f"unbalanced: {large!r} has {counts[large]} pictures and {small!r} {counts[small]} ({imbalance:.1f} to 1);"
            " look at the balanced accuracy"
        )
    few = [f"{name!r} {count}" for name, count in counts.items() if count < FEW_ITEMS]
    if few:
        shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        warnings.append(f"fewer than {FEW_ITEMS} pictures to learn from: {shown}")
    return warnings


def _copy_warnings(
    duplicates: Sequence[Sequence[str]], leaks: Sequence[Sequence[str]], contradictions: Sequence[Sequence[str]]
) -> list[str]:
    warnings = []
    if duplicates:
        spare = sum(len(group) - 1 for group in duplicates)
        warnings.append(f"{spare} pictures are exact copies of others, such as {' = '.join(duplicates[0][:2])}")
    if leaks:
        warnings.append(
            f"{len(leaks)} pictures stand in more than one split, such as {' = '.join(leaks[0][:2])}: scores on them"
            " are too good"
        )
    if contradictions:
        warnings.append(
            f"{len(contradictions)} pictures stand under more than one class, such as"
            f" {' = '.join(contradictions[0][:2])}: mend the labels"
        )
    return warnings


def _near_warnings(found: _Groups, leaks: _Groups, contradictions: _Groups) -> list[str]:
    warnings = []
    if found:
        count = sum(map(len, found))
        warnings.append(
            f"{count} pictures in {len(found)} groups are nearly the same (resized, mirrored or brightened),"
            f" such as {' ~ '.join(found[0][:2])}"
        )
    if leaks:
        warnings.append(
            f"{len(leaks)} groups of nearly the same pictures stand in more than one split, such as"
            f" {' ~ '.join(leaks[0][:2])}: scores on them are too good"
        )
    if contradictions:
        warnings.append(
            f"{len(contradictions)} groups of nearly the same pictures stand under more than one class, such as"
            f" {' ~ '.join(contradictions[0][:2])}: look at the labels"
        )
    return warnings


def _group_warnings(leaks: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    if not leaks:
        return []
    group, splits = leaks[0]
    more = f" ({len(leaks) - 1} more groups stand in several splits)" if len(leaks) > 1 else ""
    return [f"the group {group!r} stands in {' and '.join(splits)}{more}: scores on them are too good"]


def _file_warnings(skipped: Sequence[Skipped], suspicious: Sequence[Skipped]) -> list[str]:
    warnings = []
    if skipped:
        warnings.append(f"{len(skipped)} files were skipped, such as {skipped[0].file} ({skipped[0].reason})")
    if suspicious:
        first = suspicious[0]
        warnings.append(f"{len(suspicious)} pictures look odd and were used, such as {first.file} ({first.reason})")
    return warnings
