"""Take docs/playground.png of a server that runs: python scripts/playground_screens.py [URL].

Needs chromium on the path. With a second argument, a folder, it also takes the page narrow and
dark into that folder, to be looked at.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
QUESTIONS = ("Describe the image", "What colour is the star?")
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 360, "height": 740}


def take(browser: Browser, url: str, path: Path, **look: object) -> None:
    """A conversation about the example picture, as a PNG."""
    page = browser.new_page(**look)
    page.goto(url)
    page.wait_for_selector("#model:not([disabled])")
    page.get_by_role("button", name="Use the example picture").click()
    page.wait_for_selector("#pictures li")
    for question in QUESTIONS:
        page.locator("#question").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.wait_for_selector("#ask:visible")
    page.screenshot(path=path)
    page.close()


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        take(browser, url, ROOT / "docs" / "playground.png", viewport=WIDE)
        if len(sys.argv) > 2:
            folder = Path(sys.argv[2])
            take(browser, url, folder / "dark.png", viewport=WIDE, color_scheme="dark")
            take(
                browser, url, folder / "narrow.png", viewport=NARROW, is_mobile=True, has_touch=True
            )
            take(
                browser,
                url,
                folder / "narrow-dark.png",
                viewport=NARROW,
                is_mobile=True,
                has_touch=True,
                color_scheme="dark",
            )
