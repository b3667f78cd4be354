"""One Chromium for all tests, a fresh profile for each."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.doors.grpc.live import png
from tests.media.clips import video
from tests.pictures import encoded
from vlserve.doors.http import server

CHROMIUM = shutil.which("chromium")
GRANTED = ["clipboard-read", "clipboard-write"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium on the path (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        # Names resolve nowhere: what a page asks of another machine fails, as it does offline.
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context(viewport={"width": 1280, "height": 800})
    await context.grant_permissions(GRANTED)
    context.set_default_timeout(10_000)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser keeps its connections open, and no test has to wait for that at its end."""
    monkeypatch.setattr(server, "_CLOSE_GRACE_S", 0.05)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A small picture."""
    path = tmp_path / "red.png"
    path.write_bytes(png())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A short video that the browser plays."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(video())
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture too large to be inside a program, with a name that a shell would misread."""
    path = tmp_path / "it's a $photo.jpg"
    noise = Image.effect_noise((1200, 900), 80).convert("RGB")
    path.write_bytes(encoded(noise, "JPEG", quality=90))
    assert path.stat().st_size > 256 * 1024
    return path
