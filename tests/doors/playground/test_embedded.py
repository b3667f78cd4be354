"""The whole trip, in the whole house with the model that is inside."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.doors.playground.browser import Visit, run
from vlserve import app
from vlserve.example import picture
from vlserve.settings import GrpcSettings, HttpSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")
EXAMPLE = Path(str(picture()))


async def test_drop_ask_watch_ask_again_copy_the_curl_and_run_it(
    page: Page, tmp_path: Path
) -> None:
    settings = Settings(grpc=GrpcSettings(port=0), http=HttpSettings(port=0))
    async with app.running(settings) as house:
        visit = Visit(page, f"http://{house.http_address}")
        await visit.open()
        note = page.locator("#demonstration")
        assert "is a demonstration model" in await note.inner_text()
        assert await note.is_visible()
        await visit.drop(EXAMPLE)
        await visit.pictures(1)
        await visit.watch()
        described = await visit.ask("Describe the image")
        seen = await visit.seen()
        counted = await visit.ask("How many shapes are there?")
        notes = await visit.notes()
        script = tmp_path / "copied.sh"
        script.write_text(await visit.copied("curl"))
        printed = json.loads(await run("bash", script, cwd=tmp_path))
    print(f"{described!r}, then {counted!r}; {len(seen)} updates; {notes}")
    assert "star" in described
    assert len(seen) > 2
    assert counted.strip() in {"1", "2", "3"}
    assert printed["choices"][0]["message"]["content"] == counted
    assert not visit.leaving()
