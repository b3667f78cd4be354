"""The programs that the page shows run as they are copied, and get the same answer."""

import filecmp
import json
import sys
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.doors.playground.browser import Visit, run
from tests.doors.playground.live import served
from tests.scripted import ScriptedEngine
from vlserve.types import Request

pytestmark = pytest.mark.asyncio(loop_scope="session")
# What a shell, Python, JSON or a regular expression may misread.
AWKWARD = 'it\'s "$HOME" `id` $(id) \\ \\n %s {x} </script> \\u00000 é 你 🙂\nJSON\nEOF $& $1'


PROGRAMS = {"curl": "bash", "Python": sys.executable, "gRPC": sys.executable}
NUM_FRAMES = 8


def told(request: Request) -> list[list[str]]:
    """The turns of a request: role, texts, and the digests of pictures."""
    return [
        [m.role, *(part if isinstance(part, str) else part.sha256 for part in m.content)]
        for m in request.messages
    ]


async def answers(visit: Visit, folder: Path, *names: str) -> dict[str, str]:
    """What each program prints, run in `folder`."""
    said = {}
    for name in names or PROGRAMS:
        script = folder / f"copied-{name}"
        script.write_text(await visit.copied(name))
        printed = await run(PROGRAMS[name], script, cwd=folder)
        if name == "curl":
            printed = json.loads(printed)["choices"][0]["message"]["content"] + "\n"
        said[name] = printed.removesuffix("\n")
    return said


async def test_small_pictures_and_all_turns_are_inside(
    page: Page, red: Path, clip: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.get_by_label("System message").fill("Be brief.")
        await page.get_by_label("Seed").fill("7")
        await page.get_by_label("Stop at").fill("\\never\n</s>")
        await visit.drop(red)
        await visit.pictures(1)
        await visit.ask(AWKWARD)
        await visit.drop(red, clip)
        await visit.pictures(2)
        answer = await visit.ask(AWKWARD)
        said = await answers(visit, elsewhere)
        assert said == dict.fromkeys(said, answer)
        _, own, *others = house.engine.seen
        assert len(others) == 3
        for other in others:
            assert other.sampling == own.sampling
            assert told(other) == told(own)
        assert [len(list(m.pictures())) for m in own.messages] == [0, 1, 0, 1 + NUM_FRAMES]
        # What is shown is shorter than what is copied, and no different else.
        shown = await page.locator("[data-code=curl]").text_content() or ""
        copied = await visit.copied("curl")
        head, _, tail = shown.partition("…")
        assert copied.startswith(head)
        assert copied.endswith(tail.rpartition("…")[2])


async def test_large_pictures_are_read_from_files_by_name(
    page: Page, photo: Path, clip: Path
) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(photo, clip)
        await visit.pictures(2)
        answer = await visit.ask(AWKWARD)
        said = await answers(visit, photo.parent)
        assert said == dict.fromkeys(said, answer)
        assert len(house.engine.seen) == 4
        assert {len(told(request)[0]) for request in house.engine.seen} == {1 + NUM_FRAMES + 2}
        assert len((await visit.copied("curl")).encode()) < 2000
        # A picture that was pasted has no file until it is saved from here.
        async with page.expect_download() as download:
            await page.get_by_role("link", name=photo.name).click()
        saved = photo.with_name("saved.jpg")
        await (await download.value).save_as(saved)
        assert filecmp.cmp(saved, photo, shallow=False)


async def test_a_program_of_another_question_says_something_else(
    page: Page, tmp_path: Path
) -> None:
    """The control: the answers are those of what was copied."""
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        answer = await visit.ask("first")
        await page.locator("#question").fill("second")
        said = await answers(visit, tmp_path, "curl")
        assert said == {"curl": "second "}
        assert answer == "first "
