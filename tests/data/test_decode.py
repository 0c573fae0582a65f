"""The one loader: every odd file has its outcome, and nothing else comes out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers
import numpy as np
import odd_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from headstart.data import cells, decode
from headstart.errors import MissingExtraError, UnreadableImage
from headstart.records import FileOrigin, Item, MemoryOrigin, ParquetOrigin

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[odd_files.Odd]]:
    folder = tmp_path_factory.mktemp("odd")
    return folder, odd_files.write(folder)


def outcome(work: Callable[[], np.ndarray]) -> np.ndarray | str:
    try:
        return work()
    except UnreadableImage as error:
        return error.reason


def at(path: Path) -> Item:
    return Item(path.name, FileOrigin(path))


def test_every_odd_file_has_its_expected_outcome(odd: tuple[Path, list[odd_files.Odd]]) -> None:
    folder, files = odd
    before = helpers.folder_hash(folder)
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in files:
            got = outcome(lambda entry=entry: decode.load(at(folder / entry.name)))
            if isinstance(got, str):
                fine = bool(entry.reason) and entry.reason in got
            else:
                fine = not entry.reason and got.dtype == np.uint8 and got.shape[2] == 3 and entry.check(got)
            if not fine:
                wrong.append((ascii(entry.name), entry.reason, got if isinstance(got, str) else got.shape))
    assert wrong == []
    assert len(files) > 100
    assert helpers.folder_hash(folder) == before


def test_threads_give_the_same_pixels_and_no_global_state_changes(odd: tuple[Path, list[odd_files.Odd]]) -> None:
    folder, files = odd
    state = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)
    items = [at(folder / entry.name) for entry in files if not entry.name.startswith(("text-bomb", "sparse"))]

    def one(item: Item) -> np.ndarray | str:
        return outcome(lambda: decode.load(item))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = [one(item) for item in items]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(one, items))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert state == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)


def test_a_reason_is_one_short_line(odd: tuple[Path, list[odd_files.Odd]]) -> None:
    folder, files = odd
    for entry in files:
        if entry.reason:
            with pytest.raises(UnreadableImage) as caught:
                decode.load(at(folder / entry.name))
            assert caught.value.name == entry.name
            assert "\n" not in caught.value.reason
            assert len(caught.value.reason) < 120


def test_loading_starts_no_program_and_imports_no_torch(tmp_path: Path) -> None:
    script = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(HERE)!r})
import odd_files
from pathlib import Path
from headstart.data import decode, read, audit, splits, grid, subset
from headstart.errors import UnreadableImage
from headstart.records import FileOrigin, Item
folder = Path({str(tmp_path)!r})
files = odd_files.write(folder)
started = []
watched = ("subprocess", "os.system", "os.posix_spawn", "os.exec", "socket.connect")
sys.addaudithook(lambda event, args: started.append(event) if event.startswith(watched) else None)
for entry in files:
    try:
        decode.load(Item(entry.name, FileOrigin(folder / entry.name)))
    except UnreadableImage:
        pass
assert not started, started
assert "torch" not in sys.modules and "sklearn" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_bombs_are_refused_from_the_header_with_little_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    for data in (odd_files.png(60000, 60000), odd_files.png(20000, 20000)):
        with pytest.raises(UnreadableImage, match=r"decompression bomb: [0-9]+ x [0-9]+ pixels"):
            decode.decode(data, "bomb.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_a_bomb_that_its_own_plugin_refuses_is_told_with_its_pixels() -> None:
    data = bytearray(odd_files.encoded(odd_files.scene(), "WEBP", lossless=True, exif=odd_files.exif(1)))
    data[24:30] = b"\xff\xff\x0f\xff\xff\x0f"  # width and height of the canvas
    with pytest.raises(UnreadableImage, match=r"decompression bomb: \d+( x \d+)? pixels|damaged"):
        decode.decode(bytes(data), "a")


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small file of this kind whose header claims another size, with nothing else wrong in it."""
    frames = {"save_all": True, "append_images": [Image.new("RGB", (odd_files.WIDTH, odd_files.HEIGHT))]}
    data = bytearray(odd_files.encoded(odd_files.scene(), kind, **(frames if kind == "WEBP" else {})))
    if kind == "GIF":
        data[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    elif kind == "WEBP":
        place = data.index(b"VP8X") + 12
        data[place : place + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG"])
def test_a_small_file_that_claims_a_vast_canvas_is_refused_below_the_limit_too(kind: str) -> None:
    assert decode.MAX_PIXELS > 13_000 * 13_000
    with pytest.raises(UnreadableImage, match=r"decompression bomb: 13000 x 13000 pixels in \d+\.\d kB"):
        decode.decode(claiming(kind, 13_000, 13_000), "a", draft=32)


def test_a_large_plain_picture_in_a_small_file_is_read() -> None:
    blank = Image.new("L", (5_000, 5_000), 200)
    data = odd_files.encoded(blank)
    assert 500 * len(data) < 25_000_000
    assert decode.decode(data, "a").shape == (5_000, 5_000, 3)


def test_our_own_limit_holds_when_pillows_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(UnreadableImage, match="decompression bomb: 20000 x 20000 pixels"):
        decode.decode(odd_files.png(20000, 20000), "bomb.png")
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableImage, match="48 x 32 pixels"):
        decode.from_memory(odd_files.scene(), "array")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("draft", [None, 16, 64])
def test_a_jpeg_cut_anywhere_is_refused_or_whole_drafted_or_not(progressive: bool, draft: int | None) -> None:
    data = odd_files.encoded(odd_files.photo(300, 280), "JPEG", quality=85, progressive=progressive)
    whole = decode.decode(data, "whole", draft=draft)
    rng = np.random.default_rng(1)
    cuts = sorted({*rng.integers(1, len(data), 100).tolist(), len(data) - 1, len(data) - 2, len(data) - 40})
    used = 0
    for cut in cuts:
        got = outcome(lambda cut=cut: decode.decode(data[:cut], "cut", draft=draft))
        if not isinstance(got, str):
            assert np.array_equal(got, whole), f"cut at {cut} of {len(data)} was used silently"
            used += 1
    assert used <= 2  # only the end marker was lost


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_files_decode_or_are_refused_and_never_crash(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(_seeds()))
    spoiled = bytearray(source)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(spoiled) - 1))
        spoiled[place] = data.draw(st.integers(0, 255))
    spoiled = spoiled[: data.draw(st.integers(0, len(spoiled)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = outcome(lambda: decode.decode(bytes(spoiled), "mutant"))
    assert isinstance(got, str) or (got.ndim == 3 and got.shape[2] == 3)


def _seeds() -> list[bytes]:
    small = Image.fromarray(odd_files.photo(40, 30))
    formats = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"]
    return [odd_files.encoded(small, name) for name in formats]


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 700), st.integers(20, 700), st.integers(8, 300))
def test_a_draft_keeps_both_sides_at_least_twice_what_is_wanted(width: int, height: int, draft: int) -> None:
    data = odd_files.encoded(Image.new("RGB", (width, height), "teal"), "JPEG", exif=odd_files.exif(6))
    full, drafted = decode.examine(data, "a"), decode.examine(data, "a", draft=draft)
    assert (drafted.width, drafted.height) == (full.width, full.height) == (height, width)
    tall, wide = drafted.pixels.shape[:2]
    assert (tall, wide) == (width, height) or min(tall, wide) >= 2 * draft
    if min(width, height) >= 16 * draft:
        assert (tall, wide) == (-(-width // 8), -(-height // 8))


def test_the_size_that_is_told_is_that_of_the_pixels(odd: tuple[Path, list[odd_files.Odd]]) -> None:
    folder, files = odd
    readable = [entry for entry in files if not entry.reason]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in readable:
            seen = decode.examine((folder / entry.name).read_bytes(), entry.name)
            assert seen.pixels.shape == (seen.height, seen.width, 3), ascii(entry.name)
    assert len(readable) > 60


def test_a_draft_shows_the_same_picture(odd: tuple[Path, list[odd_files.Odd]]) -> None:
    data = odd_files.encoded(odd_files.photo(640, 480), "JPEG", quality=95)
    full, small = decode.decode(data, "a"), decode.decode(data, "a", draft=64)
    assert small.shape[0] < full.shape[0]
    shrunk = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(shrunk - small).mean() < 4


def test_the_facts_of_a_picture_are_told() -> None:
    seen = decode.examine(odd_files.encoded(odd_files.turned(6), "JPEG", exif=odd_files.exif(6)), "a")
    assert (seen.width, seen.height, seen.mode, seen.format) == (odd_files.WIDTH, odd_files.HEIGHT, "RGB", "JPEG")
    grey = decode.examine(odd_files.encoded(Image.fromarray(odd_files.scene()).convert("L")), "a")
    assert (grey.mode, grey.format) == ("L", "PNG")


def test_a_tiff_that_counts_white_as_zero_is_not_a_negative() -> None:
    values = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    data = odd_files.encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    pixels = decode.decode(data, "a.tif")
    assert pixels[0, 0, 0] >= 254
    assert pixels[0, -1, 0] <= 1


# --- memory -----------------------------------------------------------------------------------------------


def in_memory(value: object) -> Item:
    return Item("memory", MemoryOrigin(value))


@pytest.mark.parametrize(
    "value",
    [
        odd_files.scene(),
        odd_files.scene().astype(np.uint16) * 257,
        odd_files.scene().astype(np.float32) / 255,
        odd_files.scene().astype(np.float64) / 255,
        np.dstack([odd_files.scene(), np.full((odd_files.HEIGHT, odd_files.WIDTH), 255, np.uint8)]),
        Image.fromarray(odd_files.scene()),
        odd_files.encoded(odd_files.scene()),
        bytearray(odd_files.encoded(odd_files.scene())),
    ],
)
def test_one_picture_in_any_form_of_memory_is_the_same_picture(value: object) -> None:
    assert np.array_equal(decode.load(in_memory(value)), odd_files.scene())


def test_grey_arrays_with_and_without_a_channel_are_the_same() -> None:
    grey = odd_files.scene()[..., 0]
    assert np.array_equal(decode.load(in_memory(grey)), decode.load(in_memory(grey[:, :, None])))
    assert np.array_equal(decode.load(in_memory(grey > 100))[..., 0], (grey > 100) * np.uint8(255))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), "shape (3, 8, 8)"),
        (np.zeros((8,), np.uint8), "shape (8,)"),
        (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
        (np.full((8, 8), 2.0), "outside [0, 1]"),
        (np.full((8, 8), np.nan), "outside [0, 1]"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.array([["a"]]), "not uint8"),
        (b"", "file is empty"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(value: object, reason: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode.load(in_memory(value))
    assert reason in caught.value.reason


def test_a_truncated_pil_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(odd_files.encoded(odd_files.photo(), "JPEG")[:900])
    with pytest.raises(UnreadableImage, match="truncated"):
        decode.load(in_memory(Image.open(tmp_path / "a.jpg")))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.sampled_from(["u1", "u2", "f4"]))
def test_reading_and_decoding_equals_loading(height: int, width: int, channels: int, kind: str) -> None:
    values = np.random.default_rng(height * width).random((height, width, channels))
    scale = {"u1": 255, "u2": 65535, "f4": 1}[kind]
    item = in_memory((values * scale).astype(kind))
    assert np.array_equal(decode.decode(decode.read_bytes(item), item.name), decode.load(item))


def test_premultiplied_and_empty_pil_images() -> None:
    assert decode.load(in_memory(Image.new("La", (2, 2), (0, 0)))).min() == 255
    with pytest.raises(UnreadableImage, match="has no pixels"):
        decode.load(in_memory(Image.new("RGB", (0, 5))))


def test_damaged_exif_does_not_spoil_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", spoiled)
    assert odd_files.is_scene(decode.decode(odd_files.encoded(odd_files.scene()), "a"))


# --- files and cells --------------------------------------------------------------------------------------


def test_missing_forbidden_and_impossible_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode.read_bytes(at(tmp_path / "gone.jpg"))
    with pytest.raises(UnreadableImage, match="a folder"):
        decode.read_bytes(at(tmp_path))
    with pytest.raises(UnreadableImage, match="not a possible file name"):
        decode.read_bytes(Item("a", FileOrigin(Path("a\0b"))))
    for error, words in ((PermissionError(13, "x"), "permission denied"), (OSError(5, "I/O error"), "I/O error")):
        (tmp_path / "a.jpg").write_bytes(b"x")

        def fail(self: Path, error: OSError = error) -> bytes:
            raise error

        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UnreadableImage, match=words):
            decode.read_bytes(at(tmp_path / "a.jpg"))


def test_too_many_bytes_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 10)
    with pytest.raises(UnreadableImage, match="too large"):
        decode.decode(odd_files.encoded(odd_files.scene()), "a")


def test_running_out_of_memory_skips_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", greedy)
    with pytest.raises(UnreadableImage, match="does not fit in memory"):
        decode.decode(b"\xff\xd8\xff", "a")


def test_cells_are_read_at_random_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [helpers.picture(seed) for seed in range(10)]
    path = helpers.shard(tmp_path / "a.parquet", data, list(range(10)))
    plain = helpers.shard(tmp_path / "b.parquet", data, list(range(10)), plain=True)
    monkeypatch.setattr(cells, "MEMORY_BYTES", 1)  # one row group at a time
    for row in (9, 0, 5, 3, 9, 2):
        for place in (path, plain):
            assert decode.read_bytes(Item("x", ParquetOrigin(place, row, "image"))) == data[row]
    with pytest.raises(UnreadableImage, match="no row 10"):
        decode.read_bytes(Item("x", ParquetOrigin(path, 10, "image")))
    with pytest.raises(UnreadableImage):
        decode.read_bytes(Item("x", ParquetOrigin(path, 0, "no-such-column")))


def test_few_files_stay_open_and_a_replaced_file_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_MAX_FILES", 2)
    for number in range(4):
        path = helpers.shard(tmp_path / f"{number}.parquet", [helpers.picture(number)], ["a"])
        decode.read_bytes(Item("x", ParquetOrigin(path, 0, "image")))
    assert len(cells._files) == 2
    helpers.shard(path, [helpers.picture(77), None], ["a", "b"])
    assert decode.read_bytes(Item("x", ParquetOrigin(path, 0, "image"))) == helpers.picture(77)
    cells.clear()
    assert not cells._files


def test_a_cell_may_name_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.jpg").write_bytes(helpers.picture(1))
    cells_ = [{"bytes": None, "path": "pics/a.jpg"}, {"bytes": None, "path": None}, None]
    path = helpers.shard(tmp_path / "a.parquet", cells_, ["a", "b", "c"])
    assert decode.read_bytes(Item("x", ParquetOrigin(path, 0, "image"))) == helpers.picture(1)
    for row in (1, 2):
        with pytest.raises(UnreadableImage, match="the cell is empty"):
            decode.read_bytes(Item("x", ParquetOrigin(path, row, "image")))


def test_missing_and_damaged_parquet_files_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode.read_bytes(Item("x", ParquetOrigin(tmp_path / "none.parquet", 0, "image")))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(UnreadableImage, match="Parquet"):
        decode.read_bytes(Item("x", ParquetOrigin(tmp_path / "bad.parquet", 0, "image")))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = helpers.shard(tmp_path / "a.parquet", [helpers.picture(1)], ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[data\]"):
        decode.read_bytes(Item("x", ParquetOrigin(path, 0, "image")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_its_own_files(tmp_path: Path) -> None:
    data = [helpers.picture(seed) for seed in range(6)]
    item = Item("x", ParquetOrigin(helpers.shard(tmp_path / "a.parquet", data, list(range(6))), 5, "image"))
    script = f"""
import os
from pathlib import Path
from headstart.data import cells
path = Path({str(tmp_path / "a.parquet")!r})
cells.cell(path, 0, column="image")
cells._lock.acquire()
child = os.fork()
if child == 0:
    assert not cells._files
    assert not cells._lock.locked()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert decode.read_bytes(item) == data[5]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_thumbnail_is_a_small_jpeg() -> None:
    data = decode.thumbnail(in_memory(odd_files.photo(640, 200)), side=96)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (96, 30))
