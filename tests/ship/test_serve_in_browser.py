"""The page in a real browser: silent, self-contained, usable on a phone, with a keyboard, and in the dark."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart.sealed import read_data
from headstart.ship.model import load
from headstart.ship.neighbours import find_neighbours
from headstart.ship.serve.limits import Limits
from serving import Address, served
from toydata import picture

pytestmark = pytest.mark.browser
pytest.importorskip("fastapi", reason="FastAPI is not installed")

SHOTS = os.environ.get("HEADSTART_SHOTS", "")
"""A folder to keep screenshots in, to be looked at."""
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || ['SCRIPT', 'NOSCRIPT'].includes(element.tagName) || !element.checkVisibility()) continue;
    let ground = element;
    while (ground && (rgb(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(ground ?? document.body).backgroundColor];
    const [low, high] = pair.map(c => light(rgb(c))).sort((a, b) => a - b);
    if ((high + .05) / (low + .05) < 4.5) found.push([text.slice(0, 30), ...pair]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def server(frozen_run: Path, split_shapes: Path) -> Iterator[Address]:
    neighbours = find_neighbours(load(frozen_run), read_data(frozen_run))
    with served(frozen_run, limits=Limits(body=300_000), neighbours=neighbours) as address:
        yield address


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, split_shapes: Path) -> dict[str, str]:
    """Files by what is the matter with them."""
    folder = tmp_path_factory.mktemp("photos")
    picture("square", 700).resize((320, 200)).save(folder / "wide.png")
    picture("disc", 701).resize((90, 160)).save(folder / "tall.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG and nothing more")
    (folder / "large.jpg").write_bytes(b"x" * 400_000)
    names = {path.stem: str(path) for path in folder.iterdir()}
    return {**names, "own": str(split_shapes / "train" / "disc" / "000.png")}


class Page:
    """A page of the server, what its console said and what it asked the network for."""

    def __init__(
        self, browser: Any, url: str, *, width: int = 1280, scheme: str = "light", touch: bool = False
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=touch, is_mobile=touch
        )
        self.view = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.view.on("console", lambda message: self.said.append(message.text))
        self.view.on("pageerror", lambda error: self.said.append(str(error)))
        self.view.on("request", lambda request: self.asked.append(request.url))
        self.view.goto(url)
        self.view.wait_for_selector("dl div")

    def choose(self, *files: str) -> Page:
        """Choose photos and wait until each has its answer."""
        self.view.set_input_files("#pick", list(files))
        return self.wait(len(files))

    def wait(self, n: int) -> Page:
        self.view.wait_for_selector(f".result[aria-busy=false] >> nth={n - 1}", timeout=120_000)
        return self

    def text(self, selector: str) -> str:
        return str(self.view.inner_text(selector))

    def shot(self, name: str) -> None:
        if SHOTS:
            self.view.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def test_photos_get_bars_a_map_and_neighbours_and_nothing_else_is_asked_for(
    browser: Any, server: Address, photos: dict[str, str]
) -> None:
    with Page(browser, server.url) as page:
        page.choose(photos["wide"], photos["own"])
        view = page.view
        assert view.locator(".result").count() == 2
        for n in range(2):
            result = view.locator(".result").nth(n)
            shares = result.locator(".bars .figure").all_inner_texts()
            assert len(shares) == 3
            assert abs(sum(float(share.split("\u00a0")[0].replace("under ", "")) for share in shares) - 100) < 0.4
            widths = result.locator(".bar").evaluate_all("bars => bars.map(b => b.getBoundingClientRect().width)")
            assert widths == sorted(widths, reverse=True)
            assert result.locator(".near li").count() == 5
        own = view.locator(".result", has_text="000.png")
        assert own.locator(".near li").first.inner_text().split("\n") == ["disc", "the same file"]
        sizes = view.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
        assert sizes
        assert all(sizes)
        assert page.said == []
        allowed = {f"{server.url}/", f"{server.url}/model", f"{server.url}/explain"}
        assert {url for url in page.asked if not url.startswith("data:")} == allowed
        page.shot("wide-light")


def test_the_map_covers_the_photo_and_can_be_switched_off(
    browser: Any, server: Address, photos: dict[str, str]
) -> None:
    with Page(browser, server.url) as page:
        page.choose(photos["wide"], photos["tall"], photos["own"])
        maps = page.view.locator(".map")
        assert maps.count() >= 1
        boxes = page.view.evaluate(
            "[...document.querySelectorAll('.map')].map(m => [m, m.previousSibling].map(e => {"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height].map(Math.round); }))"
        )
        assert all(over == below for over, below in boxes)
        page.view.uncheck("#maps")
        assert not maps.first.is_visible()
        page.view.check("#maps")
        assert maps.first.is_visible()


def test_the_model_is_told_with_its_scores(browser: Any, server: Address) -> None:
    with Page(browser, server.url) as page:
        assert "3 classes: bar, disc, square" in page.text("#knows")
        facts = page.text("#facts")
        assert "Right on the sealed test images" in facts
        assert "%\u00a0" not in facts
        assert " to " in facts
        assert "Can I trust this?" in page.text("#trust")
        page.view.click("#classes summary")
        assert page.view.locator("#classes tbody tr").count() == 3


def test_what_cannot_be_answered_says_why(browser: Any, server: Address, photos: dict[str, str]) -> None:
    with Page(browser, server.url) as page:
        page.choose(photos["broken"], photos["large"])
        assert "No answer" in page.view.locator(".result", has_text="broken.png").inner_text()
        assert (
            "It has 0.4 MB; at most 0.3 MB are taken."
            in page.view.locator(".result", has_text="large.jpg").inner_text()
        )
        assert "no answer" in page.text("#status")
        assert f"{server.url}/explain" in page.asked
        page.shot("errors")


def test_unknown_is_shown_as_such(browser: Any, server: Address, photos: dict[str, str]) -> None:
    model = server.service.model
    before = model.reject

    class Never:
        def accepts(self, probabilities: Any, features: Any) -> Any:
            return probabilities.max(axis=1) > 2

    try:
        model.reject = Never()  # type: ignore[assignment]
        with Page(browser, server.url) as page:
            page.choose(photos["wide"])
            assert page.text(".said") == "Unknown"
            assert "The nearest is" in page.text(".words")
            assert "unknown, nearest" in page.text("#status")
            page.shot("unknown")
    finally:
        model.reject = before


PUT = """([data, kind]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], kind + '.png', {type: 'image/png'}));
  document.dispatchEvent(kind === 'drop'
    ? new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true})
    : new ClipboardEvent('paste', {clipboardData: transfer}));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_can_be_dropped_and_pasted(browser: Any, server: Address, photos: dict[str, str], kind: str) -> None:
    with Page(browser, server.url) as page:
        data = base64.b64encode(Path(photos["wide"]).read_bytes()).decode()
        page.view.evaluate(PUT, [data, kind])
        page.wait(1)
        assert page.text(".name") == f"{kind}.png"
        assert page.view.locator(".bars li").count() == 3
        assert page.said == []


def pressed(view: Any, *, tries: int = 4) -> Any:
    """The file chooser that Enter opens; on a busy machine the browser may not be awake at the first press."""
    from playwright.sync_api import TimeoutError as Late

    for left in reversed(range(tries)):
        try:
            with view.expect_file_chooser(timeout=8_000) as chooser:
                view.keyboard.press("Enter")
            return chooser.value
        except Late:
            if not left:
                raise
    raise AssertionError("unreachable")


def test_a_keyboard_reaches_everything_and_answers_are_spoken(
    browser: Any, server: Address, photos: dict[str, str]
) -> None:
    with Page(browser, server.url) as page:
        page.view.keyboard.press("Tab")
        assert page.view.evaluate("document.activeElement.id") == "pick"
        outline = page.view.evaluate("getComputedStyle(document.activeElement.closest('.button')).outlineStyle")
        assert outline == "solid"
        pressed(page.view).set_files(photos["own"])
        page.wait(1)
        reached = []
        for _ in range(8):
            page.view.keyboard.press("Tab")
            reached.append(page.view.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert "maps" in reached
        assert "SUMMARY" in reached
        status = page.view.locator("#status")
        assert status.get_attribute("aria-live") == "polite"
        assert status.inner_text().startswith("000.png: ")
        assert page.view.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")
        assert page.view.evaluate("document.documentElement.lang") == "en"
        headings = page.view.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
        assert headings[0] == 1
        assert headings.count(1) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways_and_offers_its_camera(
    browser: Any, server: Address, photos: dict[str, str], scheme: str
) -> None:
    with Page(browser, server.url, width=360, scheme=scheme, touch=True) as page:
        page.choose(photos["wide"], photos["tall"], photos["own"])
        page.view.click("#classes summary")
        assert page.view.evaluate("document.documentElement.scrollWidth") <= 360
        camera = page.view.locator("label", has_text="Take a photo")
        assert camera.is_visible()
        assert page.view.get_attribute("#camera", "capture") == "environment"
        heights = page.view.evaluate("[...document.querySelectorAll('.button')].map(b => b.offsetHeight)")
        assert min(heights) >= 40
        assert page.view.evaluate(CONTRAST) == []
        page.shot(f"phone-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    browser: Any, server: Address, photos: dict[str, str], scheme: str
) -> None:
    with Page(browser, server.url, scheme=scheme) as page:
        page.choose(photos["wide"], photos["broken"], photos["own"])
        assert page.view.evaluate(CONTRAST) == []
        assert page.view.locator("label", has_text="Take a photo").is_hidden()
        page.shot(f"screen-{scheme}")


def test_a_policy_lets_no_other_script_run(browser: Any, server: Address) -> None:
    with Page(browser, server.url) as page:
        page.view.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = true';"
            " document.body.append(s); }"
        )
        assert page.view.evaluate("window.ran") is None
        assert any("Content Security Policy" in line for line in page.said)


def test_the_page_of_the_interface_is_silent(browser: Any, server: Address) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 800})
    view, said = context.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.goto(f"{server.url}/docs")
    assert view.locator("h2").count() == 5
    assert view.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    context.close()
