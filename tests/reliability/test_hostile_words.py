"""F6 of the catalogue: names that are markup, control a terminal or turn text around, wherever a model is shown."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _hostile import signed

import headstart
from headstart import cli, report
from headstart.ship.model import load
from serving import form, served
from toydata import CLASSES

NAMES = {
    "markup": ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style></title><svg onload=x>"),
    "markdown": ("[a](javascript:alert(1))", "# a\n\n<b>b</b>\n|c|", "![x](http://127.0.0.1:9/x.png)"),
    "control": ("\x1b]0;owned\x07\x1b[2J", "a\r\nb\x00c\x08", "\x9b31m\x85"),
    "bidi": ("\u202egpj.exe", "\u2066a\u2069", "\u202bb\u2028c"),
    "broken": ("\ud800", "\udcff", "\uffff\ufdd0"),
    "templates": ("{{ 7 * 7 }}", "{% raw %}", "${7*7}"),
    "formulas": ("=cmd|' /C calc'!A0", "@SUM(1)", "-2+3"),
}  # fmt: skip

ODD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, frozen_run: Path, tmp_path: Path) -> Path:
    """A finished run whose classes have such names, everywhere."""
    folder = Path(shutil.copytree(frozen_run, tmp_path / "run"))
    names = NAMES[request.param]
    for file in ("run.json", "settings.json"):
        told = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps(_renamed(told, dict(zip(CLASSES, names, strict=True)))))
    signed(folder / "model", lambda record: record.update(classes=list(names)))
    return folder


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    return names.get(value, value) if isinstance(value, str) else value


class _Page(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def check_page(text: str, like: str) -> None:
    """A page has the tags and handlers of a harmless one, and reaches out nowhere."""
    page, plain = _Page(), _Page()
    page.feed(text)
    plain.feed(like)
    assert page.tags <= plain.tags
    assert {name for name, _ in page.attributes} <= {name for name, _ in plain.attributes}
    assert not [value for name, value in page.attributes if name in ("href", "src") and value[:1] not in ("#", "d", "")]
    assert not ODD.search(text)
    assert "49" not in [value for _, value in page.attributes]


def test_f6_the_report_and_its_markdown_show_names_as_text(run: Path, frozen_run: Path) -> None:
    record, like = (json.loads((place / "run.json").read_bytes()) for place in (run, frozen_run))
    check_page(report.render(record, pictures={}), report.render(like, pictures={}))
    text = report.to_markdown(record)
    assert not ODD.search(text)
    assert not re.search(r"(?<!\\)<(script|img|svg|/)", text)
    assert not re.search(r"(?<!\\)\]\((javascript|http://127)", text)


def test_f6_the_console_shows_names_as_text(run: Path, split_shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", str(run), str(split_shapes / "test")]) == 0
    assert not ODD.search(capsys.readouterr().out)
    assert cli.run(["resume", str(run)]) == 0
    told = capsys.readouterr()
    assert not ODD.search(told.out + told.err)


def test_f6_json_and_csv_can_be_read_again(run: Path, split_shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import csv
    import io

    pictures = str(split_shapes / "test")
    assert cli.run(["predict", str(run), pictures, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 24
    assert cli.run(["predict", str(run), pictures, "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert len(rows) == 25
    assert {len(row) for row in rows} == {7}


def test_f6_an_explanation_shows_names_as_text(run: Path, frozen_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    picture, pages = next(split_shapes.rglob("*.png")), []
    for place, out in ((run, "hostile"), (frozen_run, "plain")):
        headstart.explain(place, picture, tmp_path / out, neighbours=False)
        pages.append((tmp_path / out / "explain.html").read_text("utf-8"))
        json.loads((tmp_path / out / "explain.json").read_text("utf-8"))
    check_page(*pages)


def _get(url: str, data: bytes | None = None, kind: str = "") -> bytes:
    asked = urllib.request.Request(url, data, {"Content-Type": kind} if data else {})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def test_f6_the_server_gives_names_as_json(run: Path, split_shapes: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    picture = next(split_shapes.rglob("*.png")).read_bytes()
    with served(run) as address:
        page = _get(address.url + "/").decode()
        told = json.loads(_get(address.url + "/model"))
        answers = json.loads(_get(address.url + "/predict", *form({"a.png": picture})))
        _get(address.url + "/explain", *form({"a.png": picture}))
    names = list(load(run).classes)
    assert len(told["classes"]) == len(names) == 3
    assert len(answers) == 1
    assert not any(name in page for name in names)  # the page fetches them as JSON and writes them as text


def test_f6_names_are_kept_as_they_are_in_python(run: Path) -> None:
    model = load(run)
    found = model.predict(np.zeros((20, 20, 3), np.uint8))[0]
    assert found.label in model.classes
