"""The pictures of `docs/tutorial.md`, of a study with a report: `python -m tools.screenshots STUDY docs/tutorial`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH = 1000  # CSS pixels


def main() -> None:
    """Open the report in Chromium and take its first screen, and its history."""
    study, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 720})
        page.set_default_timeout(120_000)  # milliseconds: a busy machine takes its time
        page.goto((study / "report" / "index.html").resolve().as_uri())
        page.screenshot(path=out / "report.png")
        history = page.locator("#figure-history")
        history.scroll_into_view_if_needed()
        history.screenshot(path=out / "history.png")
        browser.close()


if __name__ == "__main__":
    main()
