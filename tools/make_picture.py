"""Take the README's pictures: run the demo, then open its report, and its model's page, in headless Chromium.

    python tools/make_picture.py [report] [serve]     # writes docs/report.png and docs/serve.png

The demo's pictures come from scikit-learn and its network is this project's own, so the pictures may be shipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import headstart.api
from headstart.files import write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs"
CHROMIUM = os.environ.get("HEADSTART_CHROMIUM", "/usr/bin/chromium")
SHOWN, DOWN = "7/0007.png", 170  # a test picture that is chosen on the page, and how far the page is scrolled then


def report(browser: Any, run: Path) -> bytes:
    """The top of the report."""
    page = browser.new_page(viewport={"width": 1100, "height": 1180})
    page.goto((run / "report.html").resolve().as_uri())
    return bytes(page.screenshot())


def serve(browser: Any, run: Path) -> bytes:
    """The page of the server with an answer."""
    with served(run) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.wait_for_selector("dl div")
        page.set_input_files("#pick", str(run.parent / "data" / "test" / SHOWN))
        page.wait_for_selector(".result[aria-busy=false]")
        page.evaluate(f"window.scrollTo(0, {DOWN})")
        return bytes(page.screenshot())


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    """The address at which a run is served."""
    command = [sys.executable, "-m", "headstart", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = process.stderr or ()
        yield next(found[1] for line in lines if (found := re.search(r"answers at (\S+) until", line)))
    finally:
        process.terminate()
        process.communicate()


def main(names: list[str]) -> None:
    """Write the pictures of these names, or all."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), sync_playwright() as drive:
        run = headstart.api.demo("demo").folder
        if run is None:
            raise SystemExit("the demo wrote no run")
        browser = drive.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, take in (("report", report), ("serve", serve)):
            if not names or name in names:
                target = DOCS / f"{name}.png"
                write_bytes(target, take(browser, run))
                print(f"wrote {target}, {target.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
