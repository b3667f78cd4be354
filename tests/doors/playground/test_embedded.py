"""The whole trip with the model that is inside."""

import json
from importlib import resources
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.doors.playground.browser import Visit, run
from tests.doors.playground.live import served
from vlserve.engines.catalog import make_engine
from vlserve.settings import EngineSettings, ModelSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")
EXAMPLE = Path(str(resources.files("vlserve.models") / "embedded" / "example.png"))


async def test_drop_ask_watch_ask_again_copy_the_curl_and_run_it(
    page: Page, tmp_path: Path
) -> None:
    engine = make_engine(ModelSettings(), EngineSettings())
    await engine.start()
    try:
        async with served(engine) as house:
            visit = Visit(page, house.url)
            await visit.open()
            await visit.drop(EXAMPLE)
            await visit.pictures(1)
            await visit.watch()
            described = await visit.ask("Describe the image")
            seen = await visit.seen()
            counted = await visit.ask("How many shapes are there?")
            script = tmp_path / "copied.sh"
            script.write_text(await visit.copied("curl"))
            printed = json.loads(await run("bash", script, cwd=tmp_path))
    finally:
        await engine.close()
    print(f"{described!r}, then {counted!r}; {len(seen)} updates; {await visit.notes()}")
    assert "star" in described
    assert len(seen) > 2
    assert counted.strip() in {"1", "2", "3"}
    assert printed["choices"][0]["message"]["content"] == counted
    assert not visit.leaving()
