"""A: odd, hostile, forbidden and vanishing files, through whole commands from outside."""

from __future__ import annotations

import ast
import csv
import ctypes
import io
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _outside import Ended, headstart, helpers, odd_files
from PIL import Image

from headstart import api, console
from headstart.data import audit as auditing
from headstart.data import decode
from headstart.data.audit import audit
from headstart.data.loader import Views
from headstart.data.pictures import Pictures
from headstart.data.read import find_images, read
from headstart.judge.label_issues import to_csv
from headstart.progress import Silent
from headstart.records import Dataset, FileOrigin, Item
from toydata import CLASSES, picture, write_shapes

LIBC = ctypes.CDLL(None, use_errno=True)
SOURCE = Path(__file__).parents[2] / "src" / "headstart"
FROZEN = ("--source", "toy", "--strategy", "frozen")
WATCH = """import os, sys
def hook(event, args):
    if event.startswith(("subprocess", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect")):
        os.write(handle, f"{event} {args}\\n".encode())
handle = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Odds:
    """A data folder with every odd file in one of its classes, and what must come of each."""

    folder: Path
    bad: Mapping[str, str]
    good: frozenset[str]
    written: tuple[odd_files.Odd, ...]


@pytest.fixture(scope="module")
def odds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odds]:
    folder = write_shapes(tmp_path_factory.mktemp("odds") / "data", per_class=12)
    (folder / "odd").mkdir()
    written = odd_files.write(folder / "odd")
    half = odd_files.photo(96, 96).copy()
    half[40:] = 128
    (folder / "odd" / "half-empty.jpg").write_bytes(odd_files.encoded(half, "JPEG", quality=90))
    before = helpers.folder_hash(folder)
    bad = {f"odd/{entry.name}": entry.reason for entry in written if entry.reason}
    good = frozenset(f"odd/{entry.name}" for entry in written if not entry.reason) | {"odd/half-empty.jpg"}
    yield Odds(folder, bad, good, tuple(written))
    assert helpers.folder_hash(folder) == before, "the user's pictures were changed"


@pytest.fixture(scope="module")
def odd_run(odds: Odds, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """A run on the odd files, from outside."""
    run = tmp_path_factory.mktemp("odd") / "run"
    return headstart("fit", odds.folder, "--out", run, *FROZEN, env=home_of(run)), run


def home_of(run: Path) -> dict[str, str]:
    """Where a run kept what the next one finds."""
    return {"HEADSTART_HOME": str(run.parent / "home")}


def reasons(rows: list[dict[str, Any]]) -> dict[str, str]:
    """File → reason; every file once."""
    told = {row["file"]: row["reason"] for row in rows}
    assert len(told) == len(rows)
    return told


def as_expected(told: Mapping[str, str], bad: Mapping[str, str]) -> bool:
    return set(told) == set(bad) and all(reason in told[name] for name, reason in bad.items())


# --- whole folders of them ------------------------------------------------------------------------------------------


def test_inspect_tells_each_odd_file_once_and_starts_no_program(odds: Odds, tmp_path: Path) -> None:
    """A1, A7, A8: pipes, devices and link loops are told and not read, EPS, PDF and PSD are not opened."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    env = {"PYTHONPATH": f"{tmp_path}:{SOURCE.parent}", "WATCHED": str(tmp_path / "events")}
    found = json.loads(headstart("inspect", odds.folder, "--json", env=env, gigabytes=4).well().out)
    assert as_expected(reasons(found["skipped"]), odds.bad)
    assert found["splits"]["unsplit"]["per_class"] == {**dict.fromkeys(CLASSES, 12), "odd": len(odds.good)}
    assert reasons(found["suspicious"])["odd/half-empty.jpg"].startswith("the lower ")
    assert (tmp_path / "events").read_text() == ""


def test_a_run_leaves_the_bad_files_out_and_its_report_lists_them(odds: Odds, odd_run: tuple[Ended, Path]) -> None:
    """A1: a whole `fit`, and half-empty pictures are named in the report."""
    ended, folder = odd_run
    ended.well()
    run = json.loads((folder / "run.json").read_text())
    assert as_expected(reasons(run["data"]["skipped"]), odds.bad)
    used = sum(split["per_class"]["odd"] for split in run["data"]["splits"].values())
    assert used == len(odds.good)
    report = (folder / "report.html").read_text()
    assert f"{len(odds.bad)} files were not used; none was replaced by another" in report
    assert "odd/half-empty.jpg" in report
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        judged = {row["file"] for row in csv.DictReader(stream) if row["label"] == "odd"}
    assert judged
    assert judged <= {name.encode("utf-8", "backslashreplace").decode() for name in odds.good}


def test_predict_answers_every_readable_file_and_names_the_others(odds: Odds, odd_run: tuple[Ended, Path]) -> None:
    """A1, A2, A3: the same reasons as in the audit; the same pixels in another file give the same answer."""
    answers = json.loads(headstart("predict", odd_run[1], odds.folder / "odd", "--json").well().out)
    by_name = {answer["file"].removeprefix(f"{odds.folder.as_posix()}/"): answer for answer in answers}
    assert len(by_name) == len(answers)
    assert set(by_name) == set(odds.bad) | odds.good
    assert as_expected({name: a["error"] for name, a in by_name.items() if "error" in a}, odds.bad)
    turned = [f"odd/exif{n}{suffix}" for n in range(1, 9) for suffix in (".png", ".webp", "-lzw.tif", ".tif")]
    plain = ["odd/a.bmp", "odd/a.ppm", "odd/a.tif", "odd/wrong-suffix.jpg", "odd/moving.png", "odd/moving.webp"]
    ramps = [f"odd/{name}" for name in ("deep.png", "deep.tif", "deep-big.tif", "deep.pgm", "deep-rgb.png")]
    for names in ([*turned, *plain], ramps):
        assert len({json.dumps(by_name[name]["probabilities"]) for name in names}) == 1


def test_evaluate_leaves_the_same_files_out(odds: Odds, odd_run: tuple[Ended, Path]) -> None:
    """A1, and a set of which most cannot be read is not scored on the rest (B8)."""
    found = json.loads(headstart("evaluate", odd_run[1], odds.folder, "--split", "all", "--json").well().out)
    assert as_expected(reasons(found["skipped"]), odds.bad)
    assert found["n"] == 36 + len(odds.good)


def test_other_verbs_take_the_same_folder(odds: Odds, odd_run: tuple[Ended, Path], tmp_path: Path) -> None:
    """A1: `advise`, which finds what the run's audit kept, a grid of samples, and a smaller copy of the data."""
    assert "suggested" in headstart("advise", odds.folder, "--source", "toy", env=home_of(odd_run[1])).well().out
    assert api.sample(odds.folder, 400).width > 0
    made = api.subset(odds.folder, tmp_path / "small", per_class=10, test=20)
    assert made["classes"] == [*CLASSES[:2], "odd", "square"]
    assert {"train", "test"} <= set(made["splits"])


def test_a_pipe_given_by_name_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A7: as data and as a picture."""
    os.mkfifo(tmp_path / "data")
    os.mkfifo(tmp_path / "a.jpg")
    assert "neither a folder nor a manifest" in headstart("inspect", tmp_path / "data").refused()
    (item,) = find_images([tmp_path / "a.jpg"])
    with pytest.raises(decode.UnreadableImage, match="not a regular file but a pipe"):
        decode.load(item)


# --- one loader ----------------------------------------------------------------------------------------------------


def test_audit_training_prediction_and_report_see_the_same_pixels(
    odds: Odds, odd_run: tuple[Ended, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A2, A3: corners, ramps and rotations in every path."""
    from headstart.ship.model import load

    seen: dict[str, dict[str, np.ndarray]] = {}
    path, real = "", decode.examine

    def watched(data: bytes, name: str, *, draft: int | None = None) -> decode.Decoded:
        found = real(data, name, draft=draft)
        seen.setdefault(path, {})[Path(name).name] = found.pixels
        return found

    monkeypatch.setattr(decode, "examine", watched)
    monkeypatch.setattr(auditing, "examine", watched)
    written = {entry.name: entry for entry in odds.written if not entry.reason}
    kept = tuple(Item(f"odd/{n}", FileOrigin(odds.folder / "odd" / n), i % 2) for i, n in enumerate(written))
    model = load(odd_run[1])
    path = "audit"
    _, facts = audit(Dataset(str(odds.folder), ("one", "other"), kept), workers=1)
    hashes = [facts.hashes[item.name] for item in kept]
    path = "training"
    views, pictures = Views(kept, model.card, hashes=hashes), Pictures(kept, model.card, hashes=hashes, use_store=False)
    assert all(views(n).shape == model.card.input_size for n in range(len(kept)))
    path = "training, decoded once"
    assert all(pictures(n).shape[2] == 3 for n in range(len(kept)))
    path = "prediction"
    assert all(answer.error is None for answer in model.predict([odds.folder / item.name for item in kept]))
    path = "report"
    assert all(decode.thumbnail(item) for item in kept)
    assert set(seen) == {"audit", "training", "training, decoded once", "prediction", "report"}
    for name, entry in written.items():
        for where, pixels in seen.items():
            assert entry.check(pixels[name]), (where, ascii(name))
            assert np.array_equal(pixels[name], seen["audit"][name]), (where, ascii(name))


def test_no_other_module_opens_pictures() -> None:
    """A2: what reads pictures stands in data/decode.py and its short way."""
    doors = ("Image.open", "simplejpeg", "cv2", "imageio", "torchvision.io", "skimage", "ImageFile", "decode_jpeg")
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).as_posix() in ("data/decode.py", "data/_jpeg.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Attribute, ast.Import, ast.ImportFrom)):
                words = ast.unparse(node)
                assert not any(door in words for door in doors), f"{path.name}, line {node.lineno}: {words}"


def test_a_jpeg_cut_at_a_hundred_places_is_never_used_silently(tmp_path: Path) -> None:
    """A4, through the audit and its drafts."""
    helpers.fill(tmp_path, {"whole": 110})
    data, draw = odd_files.encoded(odd_files.photo(300, 280), "JPEG", quality=85), random.Random(4)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "whole.jpg").write_bytes(data)
    for cut in draw.sample(range(1, len(data) - 2), 100):
        (tmp_path / "cut" / f"{cut}.jpg").write_bytes(data[:cut])
    found = api.inspect(tmp_path)
    assert found["splits"]["unsplit"]["per_class"] == {"cut": 1, "whole": 110}
    assert len(found["skipped"]) == 100


# --- bombs ---------------------------------------------------------------------------------------------------------


def test_bombs_are_refused_from_the_header_and_add_little_memory(tmp_path: Path) -> None:
    """A6: what claims gigapixels, what claims just less in a few bytes, a text of 64 MB, a file of 2 GiB."""
    helpers.fill(tmp_path / "plain", {"a": 12, "b": 12})
    shutil.copytree(tmp_path / "plain", tmp_path / "mined")
    place = tmp_path / "mined" / "a"
    for side in (12_000, 13_000, 20_000, 60_000):
        (place / f"{side}.png").write_bytes(odd_files.png(side, side))
        gif = odd_files.encoded(odd_files.scene(), "GIF")
        (place / f"{side}.gif").write_bytes(gif[:6] + side.to_bytes(2, "little") * 2 + gif[10:])
    (place / "text.png").write_bytes(odd_files.text_bomb())
    with (place / "sparse.jpg").open("wb") as stream:
        stream.truncate(2 << 30)
    before = helpers.folder_hash(tmp_path / "mined")
    plain = headstart("inspect", tmp_path / "plain", "--json").well()
    mined = headstart("inspect", tmp_path / "mined", "--json").well()
    told = reasons(json.loads(mined.out)["skipped"])
    assert len(told) == 10
    assert sum("decompression bomb" in reason for reason in told.values()) == 8
    assert mined.peak_mb < min(300, plain.peak_mb + 100)
    assert helpers.folder_hash(tmp_path / "mined") == before


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = (
    "<script>alert(1)<", "'\"><img src=x onerror=alert(2)>", "line\nbreak", "return\rcarriage", "=1+1", "@SUM(A1)",
    "-rf", "tab\tseparated", "comma, semicolon; quote\"", "\u202egnp.rtl", "\x1b[31mred\x1b[0m", "{{7*7}}", "%s%n",
    "n" * 236, os.fsdecode(b"latin-\xe9-1"), "日本 🐜 é", " leading and trailing ", "&lt;b&gt;", "dots..", "C:\\con",
)  # fmt: skip
LABELS = ("<b>bold", "=cmd|'calc'!A0", os.fsdecode(b"line\nbreak \xff"))


class Page(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three classes with hostile names, of pictures with hostile names; some stand under the wrong class."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    for number, name in enumerate(NAMES * 2):
        for kind, label in zip(CLASSES, LABELS, strict=True):
            place = folder / (LABELS[0] if number % 13 == 5 else label)
            place.mkdir(parents=True, exist_ok=True)
            shown = f"{name}{'' if number < len(NAMES) else kind[0]}"
            picture(kind, number, noise=9.0).save(place / f"{shown[:236]}{'' if place.name == label else kind}.png")
    (folder / LABELS[1] / "<i>broken\r.png").write_bytes(b"no picture")
    before = helpers.folder_hash(folder)
    yield folder
    assert helpers.folder_hash(folder) == before


def test_hostile_names_steer_no_terminal_no_table_and_no_page(hostile: Path, tmp_path: Path) -> None:
    """A9: report, CSV, JSON and log are valid, no name is a tag, and the model gives the labels back."""
    run = tmp_path / "run"
    options = ("--source", "toy", "--strategy", "full", "--epochs", "2", "--lr", "1e-3")
    ended = headstart("fit", hostile, "--out", run, *options).well()
    for text in (ended.out, ended.err):
        assert not any(mark in text for mark in ("\x1b", "\r", "\u202e", "\udcff"))
    found = json.loads((run / "run.json").read_text())
    names = {item.name for item in read(hostile).items}
    assert found["data"]["classes"] == sorted(LABELS)
    assert [row["file"] for row in found["data"]["skipped"]] == [f"{LABELS[1]}/<i>broken\r.png"]
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == found["scores"]["test"]["n"] > 10
    assert all(None not in row and None not in row.values() for row in rows)
    assert {row["file"] for row in rows} <= {_written(name) for name in names}
    assert {row["label"] for row in rows} <= {_written(label) for label in LABELS}
    assert all(json.loads(line)["epoch"] >= 0 for line in (run / "log.jsonl").read_text().splitlines())
    page = Page()
    page.feed((run / "report.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "b", "i", "iframe", "object"}
    assert not any(name.startswith("on") for name in page.attributes)
    assert LABELS[0] in page.text
    answers = api.predict(run, hostile / LABELS[2])
    assert {answer["label"] for answer in answers} <= set(LABELS)
    assert len(answers) == len(list((hostile / LABELS[2]).iterdir()))


def _written(name: str) -> str:
    """A name as it stands in a file of UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def test_a_hostile_name_is_one_cell_of_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A9: of `predict --csv` and label_issues.csv."""
    numbers = {"p_label": 0.1, "p_suggested": 0.9, "score": 0.2}
    text = to_csv([{"file": name, "label": LABELS[1], "suggested": LABELS[0], **numbers} for name in NAMES])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["file"], row["label"], row["suggested"]) for row in rows] == [(name, *LABELS[1::-1]) for name in NAMES]
    console.predictions_csv([{"file": name, "error": "truncated"} for name in NAMES])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["file"] for row in rows] == [_written(name) for name in NAMES]


# --- files that change while a run works ----------------------------------------------------------------------------


class Meddler(Silent):
    """A reporter that does something at the end of an epoch, or when the pictures were checked."""

    def __init__(self, work: Callable[[], None], *, epoch: int | None) -> None:
        self.work, self.wanted = work, epoch

    def epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.wanted:
            self.work()

    def note(self, text: str) -> None:
        pass

    def say(self, text: str) -> None:
        if self.wanted is None and text.startswith("Training"):
            self.work()


@pytest.mark.parametrize(
    ("strategy", "cache", "epoch"), [("full", False, 1), ("full", True, 1), ("frozen", False, None)]
)
def test_files_that_vanish_change_or_shrink_during_a_run_are_named_and_not_replaced(
    tmp_path: Path, strategy: str, cache: bool, epoch: int | None
) -> None:
    """A10: deleted, replaced by another class's picture, cut; of the training, validation and test items."""
    data = write_shapes(tmp_path / "data", splits={"train": 8, "val": 4, "test": 5})
    gone = [f"{split}/disc/{n:03d}.png" for split, n in (("train", 1), ("val", 8), ("test", 12))]
    swapped = [f"{split}/bar/{n:03d}.png" for split, n in (("train", 2), ("val", 9), ("test", 13))]
    cut = [f"{split}/square/{n:03d}.png" for split, n in (("train", 3), ("val", 10), ("test", 14))]

    def meddle() -> None:
        for name in gone:
            (data / name).unlink()
        for name in swapped:
            (data / name).write_bytes((data / name.replace("bar", "square")).read_bytes())
        for name in cut:
            (data / name).write_bytes((data / name).read_bytes()[:300])

    options = {"source": "toy", "strategy": strategy, "epochs": 2, "batch_size": 16, "lr": 1e-3, "cache": cache}
    run = api.fit(data, tmp_path / "run", reporter=Meddler(meddle, epoch=epoch), **options).run  # type: ignore[arg-type]
    notes = " | ".join(run["notes"])
    assert "became unreadable during the run" in notes
    for name in (*gone, *swapped, *cut):
        known = strategy == "full" and name.startswith("val")  # kept in memory since epoch 0
        assert notes.count(f"became unreadable during the run: {name}: ") == (not known), notes
    assert f"{gone[2]}: no such file" in notes
    assert f"{swapped[2]}: the file has changed since it was checked" in notes
    if strategy == "full" and not cache:
        assert f"left out of training: {swapped[0]}: the file has changed" in notes
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        judged = {row["file"] for row in csv.DictReader(stream)}
    assert judged == {f"test/{k}/{n:03d}.png" for k in CLASSES for n in range(12, 17)} - {gone[2], swapped[2], cut[2]}
    assert run["scores"]["test"]["n"] == 12
    assert run["scores"]["val"]["n"] == (12 if strategy == "full" else 9)


def test_a_picture_that_vanishes_between_two_strategies_leaves_them_all(tmp_path: Path) -> None:
    """A10: of a comparison, whose strategies are judged on the same items."""
    data = write_shapes(tmp_path / "data", splits={"train": 8, "val": 4, "test": 5})
    gone = [f"{split}/disc/{n:03d}.png" for split, n in (("train", 1), ("val", 8), ("test", 12))]

    def meddle() -> None:
        for name in gone:
            (data / name).unlink(missing_ok=True)

    options: dict[str, Any] = {"source": "toy", "epochs": 1, "batch_size": 16, "cache": False}
    reporter = Meddler(meddle, epoch=1)
    run = api.compare(data, tmp_path / "run", strategies=["scratch", "frozen"], reporter=reporter, **options).run
    for name in gone:
        assert sum(note.startswith(f"became unreadable during the run: {name}: ") for note in run["notes"]) == 1
    assert [row["val"]["n"] for row in run["race"]] == [11, 11]
    assert [row["test"]["n"] for row in run["race"]] == [14, 14]
    assert run["scores"]["test"]["n"] == run["baselines"]["scratch"]["n"] == 14


# --- forbidden places ------------------------------------------------------------------------------------------------


def without_privilege() -> None:
    """Let root be a user like others: its next program may not read what its owner may not (CAP_DAC_*)."""
    for number in (1, 2) if os.getuid() == 0 else ():
        if LIBC.prctl(24, number, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "cannot give a capability up")


def test_forbidden_files_and_folders_are_named_and_the_rest_is_used(
    tmp_path: Path, odd_run: tuple[Ended, Path]
) -> None:
    """A11: by `inspect` and by `predict`, as a user who may not read them."""
    data = write_shapes(tmp_path / "data", per_class=12)
    (data / "closed").mkdir()
    picture("disc", 99).save(data / "closed" / "a.png")
    before = helpers.folder_hash(data)
    (data / "bar" / "003.png").chmod(0)
    (data / "closed").chmod(0)
    how: dict[str, Any] = {"before": without_privilege}
    try:
        found = json.loads(headstart("inspect", data, "--json", **how).well().out)
        answers = json.loads(headstart("predict", odd_run[1], data, "--json", **how).well().out)
        told = headstart("inspect", data / "closed" / "deeper", **how).refused()
        closed = headstart("inspect", data / "closed", **how).refused()
    finally:
        (data / "bar" / "003.png").chmod(0o644)
        (data / "closed").chmod(0o755)
    assert reasons(found["skipped"]) == {
        "bar/003.png": "permission denied", "closed": "folder cannot be read (Permission denied)",
    }  # fmt: skip
    assert found["splits"]["unsplit"]["per_class"] == {"bar": 11, "disc": 12, "square": 12}
    bad = {Path(a["file"]).relative_to(data).as_posix(): a["error"] for a in answers if "error" in a}
    assert bad == dict.fromkeys(("bar/003.png", "closed"), "permission denied")
    assert len(answers) == 37
    assert "permission denied" in told
    assert "permission denied" in closed
    assert helpers.folder_hash(data) == before


def test_a_socket_and_a_device_among_the_pictures_are_not_touched(tmp_path: Path) -> None:
    """A7: a listening socket gets no connection, and reading is not even tried."""
    helpers.fill(tmp_path, {"a": 6, "b": 6})
    server = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        server.bind(f"/proc/self/fd/{here}/plug.png")
        server.listen(1)
        server.setblocking(False)
        (tmp_path / "b" / "endless.png").symlink_to("/dev/urandom")
        told = reasons(api.inspect(tmp_path)["skipped"])
        with pytest.raises(BlockingIOError):
            server.accept()
    finally:
        server.close()
        os.close(here)
    assert told == {
        "a/plug.png": "not a regular file but a socket", "b/endless.png": "not a regular file but a device",
    }  # fmt: skip


def test_a_deep_picture_is_not_white_anywhere(tmp_path: Path) -> None:
    """A2: what 16 bits hold is scaled, in the view that a network sees too."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    from headstart.sources import open_source

    card = open_source("toy").card
    view = Views([Item("deep", FileOrigin(tmp_path / "deep.png"), 0)], card)(0)
    assert len(np.unique(view.numpy())) > min(20, card.input_size[1] // 2)
    assert 110 < float(view.float().mean()) < 145
