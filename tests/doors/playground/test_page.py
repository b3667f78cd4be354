"""What a person does on the page, done in Chromium."""

import asyncio
import itertools
import re
from contextlib import aclosing
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.doors.grpc.live import png
from tests.doors.playground.browser import Visit, figures, url_of
from tests.doors.playground.live import served
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.types import ChatRequest, Message, Role

pytestmark = pytest.mark.asyncio(loop_scope="session")
STEP_S = 0.03
HOLD = ChatRequest((Message(Role.USER, ("hold",)),))


def slow() -> ScriptedEngine:
    return ScriptedEngine(step_s=STEP_S)


async def test_a_dropped_picture_is_answered_token_by_token(page: Page, red: Path) -> None:
    async with served(slow()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        assert not await page.locator("#demonstration").is_visible()  # of another model
        await visit.drop(red)
        await visit.pictures(1)
        await visit.watch()
        answer = await visit.ask("one two three four")
        assert answer.strip().endswith("one two three four")
        seen = await visit.seen()
        texts = [update["text"] for update in seen]
        assert len(texts) == 5, texts  # the picture's digest and the four words
        assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
        assert all(update["busy"] == "true" for update in seen)
        assert (seen[-1]["at"] - seen[0]["at"]) / 1000 >= 4 * STEP_S / 2, "all came at once"
        (asked,) = visit.asked()
        assert asked["stream"] is True
        assert asked["messages"] == [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url_of(red)}},
                    {"type": "text", "text": "one two three four"},
                ],
            }
        ]
        notes = await visit.notes()
        said = figures(notes, ["first token", "tokens/s", "in all", "tokens asked", "answered"])
        assert STEP_S / 2 < said["first token"] < said["in all"] < 5
        assert said["tokens asked"] == 15
        assert "10 of pictures" in notes
        assert said["answered"] == 5
        assert not visit.problems


async def test_where_the_time_went_stands_below_as_lengths_and_in_words(
    page: Page, red: Path
) -> None:
    async with served(ScriptedEngine(num_slots=1, step_s=0.1)) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(red)
        await visit.pictures(1)
        async with aclosing(house.service.chat(HOLD)) as other:
            await anext(other)
            asking = asyncio.create_task(visit.ask("one two three"))
            await until(lambda: house.engine.num_waiting == 1, within_s=5)
            await asyncio.sleep(0.3)
        await asking
        said = await page.locator(".stages li").all_text_contents()
        widths = await page.locator(".stages .lengths span").evaluate_all(
            "(all) => all.map((s) => [s.className, s.getBoundingClientRect().width])"
        )
        in_all = figures(await visit.notes(), ["in all"])["in all"]
        print(said, widths)
        times = {name: in_s(words) for name, words in (item.split(" ", 1) for item in said)}
        assert list(times)[-4:] == ["queue", "prefill", "decode", "elsewhere"]
        assert "fetch" not in times, "nothing was fetched"
        assert times["queue"] > 0.2
        assert 0.1 <= times["prefill"] < 0.3 < times["decode"]
        assert sum(times.values()) == pytest.approx(in_all, abs=0.02)
        assert [name for name, _ in widths] == list(times)
        whole = sum(width for _, width in widths)
        for name, width in widths:
            assert width / whole == pytest.approx(times[name] / in_all, abs=0.03), name
        # Of an answer that fails nothing is said, of one that is stopped what is known.
        await visit.ask("one break")
        assert await page.locator(".stages").count() == 1
        await page.locator("#question").fill("hold")
        await page.get_by_role("button", name="Ask").click()
        await visit.begun()
        await page.get_by_role("button", name="Stop").click()
        await visit.answer()
        assert await page.locator("article:last-child .stages .decode").count() == 2
        assert not visit.problems


def in_s(words: str) -> float:
    number, unit = words.split()
    return float(number) / {"ms": 1000, "s": 1}[unit]


async def test_a_second_question_goes_with_the_first_and_its_answer(page: Page, red: Path) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(red)
        await visit.pictures(1)
        first = await visit.ask("first")
        assert await page.locator("#pictures li").count() == 0
        await visit.paste(png((0, 0, 255)))
        await visit.pictures(1)
        await visit.ask("second")
        before, after = house.engine.seen
        assert [message.role for message in after.messages] == ["user", "assistant", "user"]
        assert after.messages[0].content[1] == "first"
        assert after.messages[1].content == (first,)
        pictures = [p.sha256 for message in after.messages for p in message.pictures()]
        assert len(set(pictures)) == 2
        assert pictures[0] == next(before.messages[0].pictures()).sha256
        await page.get_by_role("button", name="New chat").click()
        assert await page.locator("article").count() == 0
        await visit.ask("third")
        assert len(house.engine.seen[-1].messages) == 1


async def test_pictures_come_by_drop_paste_choice_and_camera_and_go_again(
    page: Page, red: Path, photo: Path
) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(red, photo)
        await visit.pictures(2)
        await visit.paste(png((0, 255, 0)))
        await visit.pictures(3)
        await page.locator("#files").set_input_files(red)
        await visit.pictures(4)
        await page.locator("#camera").set_input_files(photo)
        await visit.pictures(5)
        assert await page.locator("#camera").get_attribute("capture") == "environment"
        await page.get_by_role("button", name="Use the example picture").click()
        await visit.pictures(6)
        names = await page.locator("#pictures li").evaluate_all("(all) => all.map((i) => i.title)")
        assert len(set(names)) == 6, names
        await page.get_by_role("button", name="Remove red.png").click()
        await visit.pictures(5)
        # Thumbnails are small, what is sent is not.
        sizes = await page.locator("#pictures canvas").evaluate_all(
            "(all) => all.map((c) => c.height)"
        )
        assert max(sizes) <= 192
        await visit.ask("")
        (asked,) = visit.asked()
        content = asked["messages"][0]["content"]
        assert [part["type"] for part in content] == ["image_url"] * 5 + ["text"]
        assert content[0]["image_url"]["url"] == url_of(photo)
        assert content[-1]["text"] == "Describe the image"


async def test_what_the_server_refuses_is_said_with_the_field(page: Page, red: Path) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(red)
        await visit.pictures(1)
        temperature = page.get_by_label("Temperature")
        await temperature.fill("5")
        await page.locator("#question").fill("hot")
        await page.get_by_role("button", name="Ask").click()
        assert await visit.alert() == "temperature: must be between 0 and 2, not 5."
        assert await temperature.get_attribute("aria-invalid") == "true"
        # Nothing is lost: the question and its picture are there to be asked again.
        await visit.pictures(1)
        assert await page.locator("#question").input_value() == "hot"
        await temperature.fill("1")
        await page.get_by_role("button", name="Ask").click()
        assert (await visit.answer()).strip().endswith("hot")
        assert await temperature.get_attribute("aria-invalid") is None
        assert await page.locator("#alert").text_content() == ""
        assert await page.locator("article").count() == 1
        assert len(house.engine.seen[-1].messages) == 1


async def test_an_answer_that_fails_midway_is_said_and_not_built_upon(page: Page) -> None:
    async with served(slow()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.ask("first")
        await visit.ask("one two break")
        assert "secret" not in await visit.alert()
        assert "Not answered" in await visit.notes()
        assert (await page.locator(".failed .answer").text_content() or "").strip() == "one two"
        await visit.ask("second")
        texts = [m.content[0] for m in house.engine.seen[-1].messages]
        assert texts == ["first", "first ", "second"]


async def test_stop_ends_the_generation(page: Page) -> None:
    async with served(slow()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.locator("#question").fill("hold")
        await page.get_by_role("button", name="Ask").click()
        await visit.begun()
        assert house.engine.num_running == 1
        await page.get_by_role("button", name="Stop").click()
        await until(lambda: house.engine.num_running == 0)
        await until(lambda: house.service.num_inside == 0)
        answer = await visit.answer()
        assert answer.startswith("on on ")
        assert "stopped" in await visit.notes()
        await visit.ask("second")
        assert house.engine.seen[-1].messages[1].content == (answer,)


async def test_what_is_stopped_before_its_first_token_was_not_asked(page: Page, red: Path) -> None:
    async with served(ScriptedEngine(num_slots=1, step_s=STEP_S)) as house:
        visit = Visit(page, house.url)
        await visit.open()
        async with aclosing(house.service.chat(HOLD)) as other:
            await anext(other)
            await visit.drop(red)
            await visit.pictures(1)
            await page.locator("#question").fill("first")
            await page.get_by_role("button", name="Ask").click()
            await until(lambda: house.service.num_inside == 2)
            await page.get_by_role("button", name="Stop").click()
            await until(lambda: house.service.num_inside == 1)
            assert await visit.answer() == ""
        assert (await visit.notes()).startswith("stopped")
        assert await page.locator("article.failed").count() == 1
        # The question and its picture are back, and the next one is the conversation's first.
        await visit.pictures(1)
        assert await page.locator("#question").input_value() == "first"
        await visit.ask("second")
        assert await page.locator("article").count() == 1
        (message,) = house.engine.seen[-1].messages
        assert message.content[1:] == ("second",)


async def test_without_stop_the_generation_goes_on(page: Page) -> None:
    """The control: the engine would not have ended by itself."""
    async with served(slow()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.locator("#question").fill("hold")
        await page.get_by_role("button", name="Ask").click()
        await until(lambda: house.engine.num_running == 1)
        with pytest.raises(TimeoutError):
            await until(lambda: house.engine.num_running == 0, within_s=0.5)


async def test_who_finds_no_place_is_told_when_to_come_again(page: Page) -> None:
    async with served(ScriptedEngine(num_slots=1), max_waiting=0) as house:
        visit = Visit(page, house.url)
        await visit.open()
        async with aclosing(house.service.chat(HOLD)) as other:
            await anext(other)
            await page.locator("#question").fill("first")
            await page.get_by_role("button", name="Ask").click()
            said = await visit.alert()
        assert re.fullmatch(
            r"too many requests are running and waiting: at most \d+ may"
            r" \(limits\.max_waiting\)\. Try again in \d+ s\.",
            said,
        )
        await page.get_by_role("button", name="Ask").click()
        assert (await visit.answer()).strip() == "first"


async def test_a_server_that_starts_is_waited_for(page: Page) -> None:
    async with served(ScriptedEngine(), is_open=False) as house:
        visit = Visit(page, house.url)
        opening = asyncio.create_task(visit.open())
        await page.wait_for_selector("#alert:not(:empty)")
        assert (await visit.alert()).startswith("the server is starting")
        house.service.open()
        await opening
        assert (await visit.ask("first")).strip() == "first"


async def test_a_server_that_is_gone_is_said(page: Page) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
    await page.locator("#question").fill("anybody?")
    await page.get_by_role("button", name="Ask").click()
    assert await visit.alert() == "The server cannot be reached. Is it still running?"


async def test_an_answer_that_breaks_off_is_said(page: Page) -> None:
    async with served(slow()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.locator("#question").fill("hold")
        await page.get_by_role("button", name="Ask").click()
        await visit.begun()
    assert await visit.alert() == "The answer broke off: the connection to the server ended."
    assert await page.locator("#question").input_value() == "hold"


async def test_what_is_too_much_is_said_before_it_is_sent(
    page: Page, red: Path, photo: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(png() + bytes(900_000))
    async with served(ScriptedEngine(), max_images=2, max_message_mib=1) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(notes)
        assert await visit.alert() == "notes.txt is neither a picture nor a video."
        await visit.drop(heavy)
        assert "the request has 1.1 MiB, and this server takes 1 MiB" in await visit.alert()
        await visit.drop(red, red)
        await visit.pictures(2)
        await visit.drop(red)
        assert (await visit.alert()).startswith("This server takes 2 pictures")
        await visit.pictures(2)
        assert not visit.asked()


async def test_a_key_stays_in_the_tab_and_goes_with_each_call(page: Page) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        assert "Authorization" not in await visit.copied("curl")
        await page.locator("#key").fill("secret-key")
        await visit.ask("first")
        request = visit.requests[-1]
        assert (await request.all_headers())["authorization"] == "Bearer secret-key"
        for name in ("curl", "Python", "gRPC"):
            program = await visit.copied(name)
            assert "secret-key" not in program
            assert "API_KEY" in program
        await visit.open()
        assert await page.locator("#key").input_value() == "secret-key"
        kept = await page.evaluate("() => [JSON.stringify(localStorage), document.cookie]")
        assert kept == ["{}", ""]
