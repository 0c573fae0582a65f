"""Near-duplicates: pictures that are one photo resized, encoded anew, mirrored, brightened or marked.

A picture's fingerprint says where its brightness rises and falls between neighbouring cells, in a fine and in a coarse
grid: difference hashes (Krawetz 2013) with a third state for "no difference", so that plain areas count for nothing.
Two pictures are compared by the share of rises and falls that they do not have in common. Pairs are found by sorting
along some bits (locality-sensitive hashing, Indyk and Motwani 1998): time and memory grow with the number of pictures,
not with its square. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = [
    "COSINE",
    "HOW",
    "NEAR",
    "WIDE",
    "candidates",
    "confirm",
    "distances",
    "fingerprint",
    "groups",
    "joined",
    "mirrored",
]

Table = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]

NEAR = (0.16, 0.12)
"""Pictures are twins when at most these shares of their fine and coarse fingerprints differ (see docs/data.md)."""

HOW = (
    f"difference hashes that differ by at most {100 * NEAR[0]:.0f} % in a grid of 16 x 16 cells and"
    f" {100 * NEAR[1]:.0f} % in one of 8 x 8, mirrored or not; less where all pictures look alike"
)
"""How near-duplicates are told, in words."""

WIDE = (0.45, 0.26)
"""Shares for candidates that features must confirm: cropped and turned pictures."""

COSINE = 0.8
"""Smallest cosine similarity of centred features that confirms a candidate."""

_FINE, _COARSE = 16, 8  # cells of the two grids
_STEP = 1.0  # levels of brightness; a smaller difference counts as none
_SURE = 96  # of 256 fine differences: pictures with fewer are too plain to be told apart
_VARIED = 90  # of 480 neighbours in the fine grid that differ; a mere gradient of light has fewer, 1 photo in 1,000 too
_BITS = 768  # fine rises, fine falls, coarse rises (across, down), coarse falls (across, down)
_WORDS = _BITS // 64
_SPLIT = 8  # words of the fine part
_WINDOW = 64  # neighbours that are looked at in a sorted table
_KEY = 64  # bits that a table is sorted by
_TOGETHER = 1_000_000  # pairs that are gathered before the repeated ones are dropped
_MOST = 64  # candidates a picture, on average
_SAMPLE = 20_000  # random pairs from which the usual distance is told
_FEW_ROWS = 50  # rows under which random pairs say nothing about how alike strangers are
_USUAL = 3.0  # a twentieth of the random pairs of photos lie within about so many times NEAR


def fingerprint(pixels: npt.NDArray[np.uint8]) -> bytes:
    """96 bytes that stay nearly the same when the picture (H×W×3) is resized, encoded anew or brightened.

    Empty for a picture that is too plain or too small (under 17 pixels) to be told from others.
    """
    if min(pixels.shape[:2]) <= _FINE:
        return b""
    grey = Image.fromarray(pixels).convert("L").convert("F")
    fine = _differences(grey, _FINE, across=True)
    rises, falls = fine > _STEP, fine < -_STEP
    state = rises.view(np.int8) - falls.view(np.int8)
    changes = np.count_nonzero(state[1:] != state[:-1]) + np.count_nonzero(state[:, 1:] != state[:, :-1])
    if np.count_nonzero(state) < _SURE or changes < _VARIED:
        return b""
    across, down = _differences(grey, _COARSE, across=True), _differences(grey, _COARSE, across=False)
    coarse = np.stack([across, down])
    bits = np.concatenate([rises, falls, (coarse > _STEP).reshape(-1), (coarse < -_STEP).reshape(-1)], axis=None)
    return np.packbits(bits).tobytes()


def _differences(grey: Image.Image, cells: int, *, across: bool) -> npt.NDArray[np.float32]:
    """The differences between neighbouring cells of a grid, cells × cells."""
    size = (cells + 1, cells) if across else (cells, cells + 1)
    means = np.asarray(grey.resize(size, Image.Resampling.BOX), np.float32)
    return np.diff(means, axis=1 if across else 0)


def mirrored(table: Table) -> Table:
    """The fingerprints of the same pictures flipped left to right: columns turn round, rises across become falls."""
    fine = np.arange(512).reshape(2, _FINE, _FINE)[::-1, :, ::-1]
    coarse = 512 + np.arange(256).reshape(2, 2, _COARSE, _COARSE)[:, :, :, ::-1]
    coarse = np.stack([coarse[::-1, 0], coarse[:, 1]], axis=1)
    order = np.concatenate([fine, coarse], axis=None)
    turned = np.empty_like(table)
    for start in range(0, len(table), 4096):
        bits = np.unpackbits(np.ascontiguousarray(table[start : start + 4096]).view(np.uint8), axis=1)
        flipped = np.packbits(np.ascontiguousarray(bits[:, order]), axis=1)
        turned[start : start + 4096] = np.ascontiguousarray(flipped).view(np.uint64)
    return turned


def distances(one: Table, other: Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Row by row the shares (0 to 1) of the fine and of the coarse fingerprint that differ."""
    fine, coarse = slice(None, _SPLIT), slice(_SPLIT, None)
    return _share(one[:, fine], other[:, fine]), _share(one[:, coarse], other[:, coarse])


def _share(one: Table, other: Table) -> npt.NDArray[np.float32]:
    differing = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.float32)
    there = (np.bitwise_count(one).sum(axis=1) + np.bitwise_count(other).sum(axis=1)).astype(np.float32)
    return np.asarray(differing / np.maximum(there, 1), np.float32)


def groups(fingerprints: Mapping[str, bytes]) -> tuple[tuple[str, ...], ...]:
    """The names of pictures that are near-duplicates, directly or over others; sorted. Empty fingerprints stand alone.

    Pictures with one and the same fingerprint are near-duplicates too.
    """
    names = sorted(name for name, value in fingerprints.items() if value)
    if not names:
        return ()
    table, which = _unique(fingerprints, names)
    root = _roots(table)
    found: dict[int, list[str]] = {}
    for name, row in zip(names, which, strict=True):
        found.setdefault(int(root[row]), []).append(name)
    return tuple(sorted(tuple(group) for group in found.values() if len(group) > 1))


def candidates(
    fingerprints: Mapping[str, bytes], *, tied: Sequence[Sequence[str]] | None = None
) -> list[tuple[str, str]]:
    """Pairs of names that may be twins, for `confirm`: cropped or turned a little. Sorted, each once.

    Pairs that `groups` ties already (`tied`, where they are known) are left out, and of pictures with one and the same
    fingerprint only the first by name takes part. Where more than 64 pairs a picture are found the search ends early,
    and where all pictures look alike, as drawn digits do, there is none: features tell these apart no better.
    """
    names = sorted(name for name, value in fingerprints.items() if value)
    if not names:
        return []
    table, which = _unique(fingerprints, names)
    if _scale(table, np.random.Generator(np.random.PCG64(0))) < 1.0:
        return []
    first: dict[int, str] = {}
    for name, row in zip(names, which, strict=True):
        first.setdefault(int(row), name)
    codes, fresh, waiting = np.zeros(0, np.int64), [np.zeros(0, np.int64)], 0
    root = _roots(table) if tied is None else _tied(dict(zip(names, which.tolist(), strict=True)), tied, len(table))
    for pairs in _meetings(table, WIDE, tables=48, bits=12, tied=root):
        fresh.append(pairs[:, 0] * len(table) + pairs[:, 1])
        waiting += len(pairs)
        if waiting > _TOGETHER:
            codes, fresh, waiting = np.unique(np.concatenate([codes, *fresh])), [], 0
            if len(codes) > _MOST * len(table):
                break
    codes = np.unique(np.concatenate([codes, *fresh]))
    found = ((first[code // len(table)], first[code % len(table)]) for code in codes.tolist())
    return sorted((min(pair), max(pair)) for pair in found)


def confirm(
    pairs: Sequence[tuple[str, str]],
    features: npt.NDArray[np.float32],
    *,
    names: Sequence[str],
    cosine: float = COSINE,
) -> list[tuple[str, str]]:
    """The pairs whose features (n, d), in the order of `names`, are alike: cosine similarity after centring.

    It must reach `cosine`, and what one in a hundred random pairs reaches: where a network knows the classes well, two
    pictures of one class are alike without being twins.
    """
    if not pairs:
        return []
    row = {name: number for number, name in enumerate(names)}
    centre = features.mean(axis=0)
    cosine = max(cosine, _usual(features - centre))
    kept = []
    for start in range(0, len(pairs), 4096):
        part = pairs[start : start + 4096]
        one = features[[row[pair[0]] for pair in part]] - centre
        other = features[[row[pair[1]] for pair in part]] - centre
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        alike = (one * other).sum(axis=1) >= cosine * np.maximum(lengths, 1e-12)
        kept += [pair for pair, yes in zip(part, alike, strict=True) if yes]
    return kept


def _usual(centred: npt.NDArray[np.float32]) -> float:
    """The cosine similarity that one in a hundred random pairs of rows reaches; -1 where there are few rows."""
    if len(centred) < _FEW_ROWS:
        return -1.0
    one, other = np.random.Generator(np.random.PCG64(0)).integers(0, len(centred), (2, _SAMPLE))
    one, other = one[one != other], other[one != other]
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return float(np.quantile(np.einsum("ij,ij->i", unit[one], unit[other]), 0.99))


def joined(*parts: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups and pairs of names as groups that share no name; sorted."""
    names = sorted({name for part in parts for group in part for name in group})
    row = {name: number for number, name in enumerate(names)}
    links = [(row[group[0]], row[name]) for part in parts for group in part for name in group[1:]]
    root = _united(np.arange(len(names)), np.array(links, np.int64).reshape(-1, 2))
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(int(root[row[name]]), []).append(name)
    return tuple(sorted(tuple(group) for group in found.values() if len(group) > 1))


# --- search -----------------------------------------------------------------------------------------------


def _unique(fingerprints: Mapping[str, bytes], names: Sequence[str]) -> tuple[Table, npt.NDArray[np.int64]]:
    """The different fingerprints as rows (n, 12), and the row of every name."""
    whole = np.frombuffer(b"".join(fingerprints[name] for name in names), f"V{_BITS // 8}")
    rows, which = np.unique(whole, return_inverse=True)
    return rows.view(np.uint64).reshape(-1, _WORDS), which.reshape(-1)


def _tied(row: Mapping[str, int], groups: Sequence[Sequence[str]], n: int) -> npt.NDArray[np.int64]:
    """One number for the rows of each known group of names."""
    root = np.arange(n)
    for group in groups:
        rows = sorted({row[name] for name in group if name in row})
        root[rows] = rows[0] if rows else 0
    return root


def _roots(table: Table) -> npt.NDArray[np.int64]:
    """The smallest row of each row's group of near-duplicates."""
    root = np.arange(len(table))
    for pairs in _meetings(table, NEAR, tables=24, bits=16, tied=root):
        root[:] = _united(root, pairs)
    return root


def _meetings(
    table: Table, limits: tuple[float, float], *, tables: int, bits: int, tied: npt.NDArray[np.int64] | None = None
) -> Iterator[Pairs]:
    """Pairs of rows (m, 2), the smaller first, of distances within the limits, as they are found; some more than once.

    Each of the `tables` sorts all pictures, and all of them flipped, by some bits of the coarse fingerprint, and looks
    at the next neighbours that agree in the first `bits` of these. Rows with one number in `tied`, which may change
    meanwhile, are not compared again.
    """
    both = np.concatenate([table, mirrored(table)])
    draw = np.random.Generator(np.random.PCG64(0))
    scale = _scale(table, draw)
    limits = limits[0] * scale, limits[1] * scale
    end, likely = np.uint64(1 << (_KEY - bits)), (_KEY - bits) * limits[1]
    most = likely + 1.5 * likely**0.5 + 1  # other bits of the key that may differ: a quick look before the exact one
    for _ in range(tables):
        chosen = draw.permutation(256)[:_KEY]
        key = np.zeros(len(both), np.uint64)
        for bit in chosen:
            word, place = _SPLIT + bit // 64, np.uint64(bit % 64)
            key = (key << np.uint64(1)) | ((both[:, word] >> place) & np.uint64(1))
        order = np.argsort(key, kind="stable")
        key = key[order]
        for step in range(1, min(_WINDOW, len(order) - 1) + 1):
            unlike = key[step:] ^ key[:-step]
            agree = unlike < end
            if not agree.any():
                break
            at = np.flatnonzero(agree & (np.bitwise_count(unlike) <= most))
            one, other = order[at], order[at + step]
            if tied is not None:
                apart = tied[one % len(table)] != tied[other % len(table)]
                one, other = one[apart], other[apart]
            yield _close(both, one, other, limits)


def _scale(table: Table, draw: np.random.Generator) -> float:
    """What the limits are multiplied by: 1 for photos, less where all pictures look alike, such as drawn digits.

    From the distance within which a twentieth of all random pairs lies, those aside that would count as twins.
    """
    one, other = draw.integers(0, len(table), (2, _SAMPLE))
    one, other = one[one != other], other[one != other]
    if not len(one):
        return 1.0
    fine, coarse = distances(table[one], table[other])
    apart = np.maximum(fine / NEAR[0], coarse / NEAR[1])
    strangers = apart[apart > 1]
    return min(1.0, float(np.quantile(strangers, 0.05) / _USUAL) ** 3) if len(strangers) else 1.0


def _close(both: Table, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64], limits: tuple[float, float]) -> Pairs:
    """The pairs within the limits, as rows of the first half of `both` (the second half holds the flipped ones)."""
    half = len(both) // 2
    real = ((one < half) | (other < half)) & (one % half != other % half)
    one, other = one[real], other[real]
    near = _share(both[one, _SPLIT:], both[other, _SPLIT:]) <= limits[1]
    one, other = one[near], other[near]
    near = _share(both[one, :_SPLIT], both[other, :_SPLIT]) <= limits[0]
    pairs = np.stack([one[near] % half, other[near] % half], axis=1)
    return np.asarray(np.sort(pairs, axis=1), np.int64)


def _united(root: npt.NDArray[np.int64], pairs: Pairs) -> npt.NDArray[np.int64]:
    """The smallest member of each row's group, after the pairs are tied (union-find)."""
    ends = root[pairs]
    ends = ends[ends[:, 0] != ends[:, 1]]
    if not len(ends):
        return root
    parent = {int(row): int(row) for row in np.unique(ends)}

    def top(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in ends.tolist():
        low, high = sorted((top(one), top(other)))
        parent[high] = low
    to = np.arange(len(root))
    for row in parent:
        to[row] = top(row)
    return np.asarray(to[root], np.int64)
