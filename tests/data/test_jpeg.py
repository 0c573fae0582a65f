"""The short way for JPEGs gives Pillow's pixels, facts and refusals, or leaves the file to Pillow."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data import _jpeg, decode
from headstart.errors import UnreadableImage

pytest.importorskip("simplejpeg")


def saved(mode: str = "RGB", size: tuple[int, int] = (161, 143), **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return saved(exif=exif)


def outcome(data: bytes, draft: int | None) -> Any:
    try:
        found = decode.examine(data, "a.jpg", draft=draft)
    except UnreadableImage as error:
        return error.reason
    return found.mode, found.format, found.width, found.height, found.pixels.shape, found.pixels.tobytes()


def pillows(data: bytes, draft: int | None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_jpeg, "pixels", lambda *args, **options: None)
        return outcome(data, draft)


KINDS = {
    "baseline": saved(),
    "progressive": saved(progressive=True),
    "444": saved(subsampling=0),
    "422": saved(subsampling=1),
    "restarts": saved(restart_marker_blocks=2),
    "comment": saved(comment=b"hello"),
    "profile": saved(icc_profile=b"x" * 300),
    "grey": saved("L"),
    "cmyk": saved("CMYK"),
    **{f"turned {number}": rotated(number) for number in range(1, 9)},
}
SHORT = {"baseline", "progressive", "444", "422", "restarts", "comment", "grey"}


@pytest.mark.parametrize("draft", [None, 2, 8, 17, 35, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg_gives_pillows_pixels_and_facts(kind: str, draft: int | None) -> None:
    assert outcome(KINDS[kind], draft) == pillows(KINDS[kind], draft)


def test_plain_jpegs_take_the_short_way_and_others_do_not() -> None:
    assert {kind for kind, data in KINDS.items() if _jpeg.header(data) is not None} == SHORT
    assert _jpeg.header(saved("L", (5, 9))) == ("L", 5, 9)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_jpegs_are_refused_or_read_as_pillow_does(seed: int) -> None:
    rng, kinds, refused = random.Random(seed), [KINDS[name] for name in sorted(KINDS)], 0
    for _ in range(60):
        data = bytearray(rng.choice(kinds))
        if rng.random() < 0.4:
            data = data[: rng.randrange(1, len(data))]
        else:
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = outcome(bytes(data), None)
        assert found == pillows(bytes(data), None)
        refused += isinstance(found, str)
    assert refused


def test_a_library_that_computes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    own = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: own(*args, **options) ^ 1)
    _jpeg._library.cache_clear()
    try:
        assert _jpeg.pixels(KINDS["baseline"], 161, 143) is None
    finally:
        _jpeg._library.cache_clear()
