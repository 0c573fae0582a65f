"""Take the README's picture of a report: run the demo, open its report in headless Chromium, keep the top of the page.

    python tools/make_picture.py      # writes docs/report.png

The demo's pictures come from scikit-learn and its network is this project's own, so the picture may be shipped.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import headstart.api
from headstart.files import write_bytes

TARGET = Path(__file__).resolve().parent.parent / "docs" / "report.png"
CHROMIUM = os.environ.get("HEADSTART_CHROMIUM", "/usr/bin/chromium")


def main() -> None:
    """Write docs/report.png."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run = headstart.api.demo("demo").folder
        if run is None:
            raise SystemExit("the demo wrote no run")
        with sync_playwright() as drive:
            browser = drive.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 1180})
            page.goto((run / "report.html").resolve().as_uri())
            write_bytes(TARGET, page.screenshot())
            browser.close()
    print(f"wrote {TARGET}, {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
