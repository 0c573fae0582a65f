"""The page in a real browser: silent, self-contained, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report import render

from .example_answers import crowded, judged, judged_hostile, suspects, without_test_set
from .example_runs import HOSTILE, full, hostile, many, pictures

pytestmark = pytest.mark.browser

RUNS = {
    "minimal": dict,
    "full": full,
    "many": many,
    "hostile": hostile,
    "judged": judged,
    "untested": without_test_set,
    "crowded": crowded,
    "judged hostile": judged_hostile,
}

CONTRAST = """() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const over = (colours) => { pen.clearRect(0, 0, 1, 1);
    for (const c of colours) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255;
    return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || ['title', 'desc', 'STYLE'].includes(element.tagName)) continue;
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const style = getComputedStyle(element), svg = element.namespaceURI.includes('svg');
    const ground = over(grounds), ink = over([...grounds, svg ? style.fill : style.color]);
    const [high, low] = [light(ground), light(ink)].sort((a, b) => b - a);
    const ratio = (high + .05) / (low + .05);
    if (ratio < 4.5) found.push([node.data.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    addresses = {}
    for name, make in RUNS.items():
        names = list(HOSTILE) if "hostile" in name else ["ants/1.jpg", "bees/2.jpg", "ants/3.jpg"]
        shown = {} if name == "minimal" else pictures(names, names if "hostile" in name else ["ants", "bees"])
        run = make()
        if "label_issues" in run:
            shown["label_issues"] = suspects(run)
        path = folder / f"{name}.html"
        path.write_text(render(run, pictures=shown), encoding="utf-8")
        addresses[name] = path.as_uri()
    return addresses


def opened(browser: Any, address: str, width: int = 1200, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """A page, what its console said and what it asked the network for."""
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(address)
    return view, said, asked


@pytest.mark.parametrize("name", list(RUNS))
def test_a_page_says_nothing_runs_nothing_and_asks_for_nothing(browser: Any, files: dict[str, str], name: str) -> None:
    view, said, asked = opened(browser, files[name])
    assert said == []
    assert [address for address in asked if not address.startswith("data:")] == [files[name]]
    assert view.title().endswith("· headstart")
    assert view.evaluate("document.querySelectorAll('script').length") == 0
    view.close()


@pytest.mark.parametrize("name", ["full", "hostile", "judged"])
def test_every_picture_is_there(browser: Any, files: dict[str, str], name: str) -> None:
    view, _, _ = opened(browser, files[name])
    sizes = view.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(sizes) >= 6
    assert all(size and size > 0 for size in sizes)
    view.close()


@pytest.mark.parametrize("name", list(RUNS))
def test_a_phone_never_scrolls_sideways(browser: Any, files: dict[str, str], name: str) -> None:
    view, _, _ = opened(browser, files[name], width=360)
    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth") <= 360
    outside = view.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg')"
        " && e.getBoundingClientRect().right > 361).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "many", "judged"])
def test_every_text_stands_out_from_its_ground(browser: Any, files: dict[str, str], name: str, scheme: str) -> None:
    view, _, _ = opened(browser, files[name], scheme=scheme)
    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate(CONTRAST) == []
    view.close()


def test_dark_and_light_differ_and_paper_is_always_light(browser: Any, files: dict[str, str]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        view, _, _ = opened(browser, files["full"], scheme=scheme)
        grounds[scheme] = view.evaluate("getComputedStyle(document.body).backgroundColor")
        view.emulate_media(media="print", color_scheme=scheme)
        grounds[f"{scheme} print"] = view.evaluate("getComputedStyle(document.body).color")
        assert view.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        view.close()
    assert grounds["light"] != grounds["dark"]
    assert grounds["light print"] == grounds["dark print"]


@pytest.mark.parametrize("name", ["full", "judged", "untested", "judged hostile"])
def test_charts_keep_their_labels_inside_and_rows_apart(browser: Any, files: dict[str, str], name: str) -> None:
    view, _, _ = opened(browser, files[name])
    outside = view.evaluate(
        "[...document.querySelectorAll('svg.chart')].flatMap(s => { const box = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].filter(t => { const b = t.getBoundingClientRect();"
        " return b.left < box.left - 12 || b.right > box.right + 12; }).map(t => t.textContent); })"
    )
    assert outside == []
    view.close()


def test_maps_cover_their_pictures_and_can_be_switched_off_without_a_script(
    browser: Any, files: dict[str, str]
) -> None:
    view, _, _ = opened(browser, files["full"])
    pairs = view.evaluate(
        "[...document.querySelectorAll('.map')].map(m => [m, m.previousElementSibling].map(e => {"
        " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height].map(Math.round); }))"
    )
    assert len(pairs) == 3
    assert all(over == below for over, below in pairs)
    view.uncheck("#maps")
    assert view.locator(".map:visible").count() == 0
    view.close()
