"""Videos on the page: shown, played, sent as they are, and counted as their frames."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import FileChooser, Page, Route, expect

from tests.doors.playground.browser import Visit, url_of
from tests.doors.playground.live import served
from tests.media.clips import number, video
from tests.scripted import ScriptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")
NUM_FRAMES = 8  # of the 30 of a clip: those in the middles of as many parts
IS_SHOWN = "() => document.querySelector('video')?.videoWidth > 0"


async def test_a_dropped_video_is_shown_and_answered(page: Page, clip: Path, red: Path) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(clip, red)
        await visit.pictures(2)
        await page.wait_for_function(IS_SHOWN)
        answer = await visit.ask("what happens?")
        assert answer.strip().endswith("what happens?")
        (asked,) = visit.asked()
        first, second, _ = asked["messages"][0]["content"]
        assert first == {"type": "video_url", "video_url": {"url": url_of(clip)}}
        assert second["type"] == "image_url"
        *frames, picture = house.engine.seen[0].messages[0].pictures()
        assert [number(frame.pixels) for frame in frames] == [1, 5, 9, 13, 16, 20, 24, 28]
        assert (picture.width, picture.height) == (8, 6)
        # It stands in the conversation, and can be played there.
        assert await page.locator("article video").count() == 1
        assert await page.locator("#pictures li").count() == 0
        await page.wait_for_function(IS_SHOWN)
        assert not visit.problems
        assert not visit.leaving()


async def test_a_video_is_chosen_played_and_taken_out_by_keyboard(page: Page, clip: Path) -> None:
    chosen: asyncio.Future[FileChooser] = asyncio.get_running_loop().create_future()

    def choose(chooser: FileChooser) -> None:
        chosen.set_result(chooser)

    page.on("filechooser", choose)  # beforehand: it takes the browser a moment
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        async with asyncio.timeout(10):
            await (await chosen).set_files(clip)
        await visit.pictures(1)
        await page.wait_for_function(IS_SHOWN)
        await page.wait_for_function("() => document.activeElement.id === 'question'")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Shift+Tab")
        play = page.get_by_role("button", name="Play clip.mp4")
        assert await play.evaluate("(button) => document.activeElement === button")
        await page.evaluate("() => { document.querySelector('video').loop = true; }")
        await page.keyboard.press("Space")
        await page.wait_for_function("() => document.querySelector('video').currentTime > 0")
        await expect(play).to_have_attribute("aria-pressed", "true")
        await page.keyboard.press("Enter")
        await page.wait_for_function("() => document.querySelector('video').paused")
        await expect(play).to_have_attribute("aria-pressed", "false")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await visit.pictures(0)
        assert not house.engine.seen


async def test_what_the_browser_cannot_play_is_named_and_sent(page: Page, tmp_path: Path) -> None:
    old = tmp_path / "old.avi"
    old.write_bytes(video(container="avi", codec="mpeg4"))
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(old)
        await page.wait_for_selector("#pictures .unseen")
        assert await page.locator("#pictures video").count() == 0
        await visit.ask("what happens?")
        assert len(list(house.engine.seen[0].messages[0].pictures())) == NUM_FRAMES


async def test_a_video_counts_as_its_frames_and_is_judged_before_it_is_read(
    page: Page, clip: Path, red: Path, tmp_path: Path
) -> None:
    endless = tmp_path / "endless.mp4"
    with endless.open("wb") as file:
        file.truncate(2 * 2**30)  # more than a text of the browser may hold
    async with served(ScriptedEngine(), max_images=NUM_FRAMES) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(endless)
        assert (await visit.alert()).startswith("With endless.mp4 the request has 2730.7 MiB")
        await visit.drop(clip)
        await visit.pictures(1)
        await visit.drop(red)
        assert await visit.alert() == (
            "This server takes 8 pictures in a conversation, earlier ones included."
            " A video counts as 8."
        )
        await visit.ask("what happens?")
        assert len(house.engine.seen) == 1


async def test_without_its_line_in_the_policy_no_video_is_shown(page: Page, clip: Path) -> None:
    """The control: what the tests above see is the video."""
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)

        async def without(route: Route) -> None:
            response = await route.fetch()
            policy = response.headers["content-security-policy"]
            kept = policy.replace("media-src blob:; ", "")
            assert kept != policy
            headers = {**response.headers, "content-security-policy": kept}
            await route.fulfill(response=response, headers=headers)

        await page.route(f"{house.url}/", without)
        await visit.open()
        await visit.drop(clip)
        await page.wait_for_selector("#pictures .unseen")
