"""Take the pictures of docs/playground.md from a server that runs.

python scripts/playground_screens.py [URL]. Needs chromium on the path.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
QUESTIONS = ("Describe the image", "What colour is the star?")
DESK = {"viewport": {"width": 1280, "height": 800}}
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}


def take(browser: Browser, url: str, name: str, look: dict[str, Any]) -> None:
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
    page.screenshot(path=DOCS / name)
    page.close()


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        take(browser, url, "playground.png", DESK)
        take(browser, url, "playground-phone.png", PHONE)
