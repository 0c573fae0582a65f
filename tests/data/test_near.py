"""Near-duplicates: planted twins are found, strangers are not tied, plain pictures stand alone."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import odd_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from headstart.data import near
from headstart.data.decode import decode, examine, read_bytes
from headstart.data.read import read


def again(image: Image.Image, quality: int = 85) -> np.ndarray:
    """The pixels that the audit sees of the picture written as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return examine(buffer.getvalue(), "twin", draft=32).pixels


def resized(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * 0.6), round(image.height * 0.6)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image) -> Image.Image:
    draw = random.Random(image.width * 1000 + image.height)
    width, height = round(image.width * 0.95), round(image.height * 0.95)
    x, y = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((x, y, x + width, y + height))


def marked(image: Image.Image) -> Image.Image:
    w, h = image.size
    sign = Image.new("RGB", (w // 3, h // 10), (255, 255, 255))
    copy = image.copy()
    copy.paste(sign, (round(w * 0.62), round(h * 0.85)))
    return copy


TWINS: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "resized": lambda image: again(resized(image)),
    "quality 50": lambda image: again(image, 50),
    "mirrored": lambda image: again(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "brighter": lambda image: again(ImageEnhance.Brightness(image).enhance(1.2)),
    "darker": lambda image: again(ImageEnhance.Brightness(image).enhance(0.8)),
    "marked": lambda image: again(marked(image)),
}


def drawn(count: int, start: int = 0) -> list[Image.Image]:
    sizes = [(160, 120), (120, 160), (200, 200)]
    return [Image.fromarray(odd_files.photo(*sizes[n % 3], start + n)) for n in range(count)]


def found_share(images: list[Image.Image], twin: Callable[[Image.Image], np.ndarray]) -> tuple[float, int]:
    """The share of the planted twins that are found, and how many groups hold strangers."""
    prints = {f"{n:03d}": near.fingerprint(again(image, 95)) for n, image in enumerate(images)}
    prints |= {f"{n:03d} twin": near.fingerprint(twin(image)) for n, image in enumerate(images)}
    groups = near.groups(prints)
    hits = sum((f"{n:03d}", f"{n:03d} twin") in groups for n in range(len(images)))
    return hits / len(images), sum(len({name[:3] for name in group}) > 1 for group in groups)


@pytest.mark.parametrize("kind", TWINS)
def test_planted_twins_of_drawn_pictures_are_found_and_no_others(kind: str) -> None:
    recall, strangers = found_share(drawn(60), TWINS[kind])
    assert recall >= 0.95
    assert strangers == 0


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hymenoptera", "hotdog", "dtd10"])
def test_real_sets_have_few_groups_and_planted_twins_are_found(name: str, shared: Path) -> None:
    items = read(shared / "data" / name).items
    prints = {item.name: near.fingerprint(examine(read_bytes(item), item.name, draft=32).pixels) for item in items}
    assert len(near.groups(prints)) <= 1  # near-duplicates were taken out of these sets
    assert sum(not value for value in prints.values()) <= 0.02 * len(prints)
    images = [Image.fromarray(decode(read_bytes(item), item.name)) for item in items[::12]]
    shares = {}
    for kind, twin in TWINS.items():
        shares[kind], strangers = found_share(images, twin)
        assert strangers == 0, kind
    assert min(shares.values()) >= 0.75, shares
    assert np.mean(list(shares.values())) >= 0.93, shares


def test_cropped_and_turned_twins_are_candidates_and_few_strangers_are() -> None:
    images = drawn(60)
    prints = {f"{n:03d}": near.fingerprint(again(image, 95)) for n, image in enumerate(images)}
    prints |= {f"{n:03d} crop": near.fingerprint(again(cropped(image))) for n, image in enumerate(images)}
    pairs = near.candidates(prints)
    true = [(f"{n:03d}", f"{n:03d} crop") for n in range(60)]
    assert len(set(true) & {*pairs, *near.groups(prints)}) >= 0.8 * len(true)
    assert not set(pairs) & set(near.groups(prints))
    assert len(set(pairs) - set(true)) <= 20
    assert pairs == sorted(set(pairs))


def test_features_confirm_the_pairs_that_look_alike_after_centring() -> None:
    features = np.array([[9, 9, 1, 0], [9, 9, 1, 0.1], [9, 9, -1, 0], [9, 9, 0, 1], [9, 9, -1, -1.1]], np.float32)
    names = ["a", "b", "c", "d", "e"]
    assert near.confirm([("a", "b"), ("a", "c"), ("b", "d")], features, names=names) == [("a", "b")]
    assert near.confirm([], features, names=names) == []
    assert near.confirm([("a", "c")], features, names=names, cosine=-1.0) == [("a", "c")]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((64, 64, 3), 120, np.uint8),
        np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2),
        odd_files.photo(16, 16, 1),
        odd_files.photo(300, 12, 1),
    ],
    ids=["one colour", "a gradient", "tiny", "a strip"],
)
def test_pictures_that_cannot_be_told_apart_get_no_fingerprint_and_no_twin(pixels: np.ndarray) -> None:
    assert near.fingerprint(pixels) == b""
    assert near.groups({"a": b"", "b": b"", "c": near.fingerprint(odd_files.photo())}) == ()
    assert near.groups({}) == ()
    assert near.candidates({"a": b""}) == []


def test_plain_pictures_with_noise_are_not_tied() -> None:
    noise = np.random.default_rng(0)
    plain = [(200 + noise.normal(0, 1.0, (64, 64, 3))).clip(0, 255).astype(np.uint8) for _ in range(20)]
    assert near.groups({str(n): near.fingerprint(pixels) for n, pixels in enumerate(plain)}) == ()


def test_a_fingerprint_of_a_mirrored_picture_is_the_mirrored_fingerprint() -> None:
    image = odd_files.photo(128, 96, 3)
    one = np.frombuffer(near.fingerprint(image), np.uint64)[None]
    other = np.frombuffer(near.fingerprint(np.ascontiguousarray(image[:, ::-1])), np.uint64)[None]
    assert len(near.fingerprint(image)) == 96
    assert (near.mirrored(near.mirrored(one)) == one).all()
    fine, coarse = near.distances(near.mirrored(one), other)
    assert fine[0] <= 0.02
    assert coarse[0] <= 0.02
    apart = near.distances(one, other)
    assert apart[0][0] > 0.2
    assert near.distances(one, one)[0][0] == 0


def noisy(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    flips = np.random.default_rng(seed).random(rows.shape) < share
    return rows ^ flips.astype(np.uint8)


def random_prints(count: int, seed: int = 0) -> np.ndarray:
    """Bits (count, 768) of made-up fingerprints: a rise or a fall everywhere."""
    rises = np.random.default_rng(seed).integers(0, 2, (count, 256 + 128), dtype=np.uint8)
    fine, coarse = rises[:, :256], rises[:, 256:]
    return np.concatenate([fine, 1 - fine, coarse, 1 - coarse], axis=1)


def test_the_search_misses_few_of_20_000_and_ties_no_strangers() -> None:
    bits = random_prints(20_000)
    twins = noisy(bits[:500], 0.05, 1)
    names = [f"{n:05d}" for n in range(len(bits))] + [f"{n:05d} twin" for n in range(500)]
    packed = np.packbits(np.concatenate([bits, twins]), axis=1)
    groups = near.groups({name: row.tobytes() for name, row in zip(names, packed, strict=True)})
    assert len(groups) >= 0.98 * 500
    assert all(group == (group[0], f"{group[0]} twin") for group in groups)


def test_many_copies_of_one_look_are_one_group_and_do_not_slow_the_search() -> None:
    bits = random_prints(2_000)
    bits[500:] = noisy(bits[:1].repeat(1_500, 0), 0.01, 2)
    packed = np.packbits(bits, axis=1)
    groups = near.groups({f"{n:05d}": row.tobytes() for n, row in enumerate(packed)})
    assert [len(group) for group in groups] == [1_501]


@settings(max_examples=25, deadline=None)
@given(st.permutations(list(range(24))))
def test_groups_depend_on_no_order_and_share_no_name(order: list[int]) -> None:
    bits = random_prints(12)
    packed = np.packbits(np.concatenate([bits, noisy(bits, 0.03, 3)]), axis=1)
    prints = {f"{n:02d}": packed[n].tobytes() for n in order}
    groups = near.groups(prints)
    assert groups == near.groups(dict(sorted(prints.items())))
    assert groups == tuple((f"{n:02d}", f"{n + 12:02d}") for n in range(12))


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), max_size=8))
def test_joined_groups_hold_every_tie_and_share_no_name(parts: list[list[str]]) -> None:
    groups = near.joined(parts)
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    for part in parts:
        if len(set(part)) > 1:
            assert any(set(part) <= set(group) for group in groups)
    linked = sum(len(group) - 1 for group in groups)
    assert linked <= sum(len(set(part)) - 1 for part in parts)


def test_pictures_of_one_class_are_no_twins_to_a_network_that_knows_the_classes() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (5, 32))
    features = np.float32(centres[np.arange(200) % 5] + rng.normal(0, 1, (200, 32)))
    features[1] = features[6] + np.float32(rng.normal(0, 0.01, 32))  # both of class 1
    names = [f"{n}" for n in range(200)]
    pairs = [("0", "5"), ("1", "6"), ("2", "7"), ("3", "8")]
    assert near.confirm(pairs, features, names=names) == [("1", "6")]
