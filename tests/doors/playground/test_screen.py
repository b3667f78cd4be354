"""The page can be read and used: on a phone, in light and dark, by keyboard."""

import json
import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Page

from tests.doors.playground.browser import Visit
from tests.doors.playground.live import served
from tests.scripted import ScriptedEngine
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
STEP_S = 0.03
READABLE = 4.5  # WCAG 2.2, 1.4.3: contrast of text and ground
# The contrast of each text that is shown, by WCAG's formula.
CONTRASTS = """() => {
    const drawn = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        drawn.clearRect(0, 0, 1, 1);
        drawn.fillStyle = colour;
        drawn.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...drawn.getImageData(0, 0, 1, 1).data].map((byte) => {
            const part = byte / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
    };
    const found = {};
    for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
            .map((node) => node.data.trim()).join("");
        if (!text || !element.checkVisibility()) continue;
        const pair = [light(getComputedStyle(element).color), light(ground(element))];
        found[text] = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    }
    return found;
}"""


async def test_by_keyboard_alone(page: Page) -> None:
    async with served(ScriptedEngine(step_s=STEP_S)) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await page.keyboard.type("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        await page.keyboard.press("Enter")
        assert (await visit.answer()).strip() == "one two"
        assert house.engine.seen[0].messages[0].content == ("one\ntwo",)
        await page.keyboard.type("hold")
        await page.keyboard.press("Enter")
        await visit.begun()
        await page.keyboard.press("Escape")
        await until(lambda: house.engine.num_running == 0)
        await visit.answer()
        # Stop stands in the place of Ask, for the focus as well.
        await page.keyboard.type("hold")
        await page.get_by_role("button", name="Ask").focus()
        await page.keyboard.press("Enter")
        await visit.begun()
        await page.keyboard.press("Enter")
        await until(lambda: house.engine.num_running == 0)
        await visit.answer()
        assert await page.evaluate("() => document.activeElement.id") == "ask"
        await page.locator("#question").focus()
        # From the question on, everything is reached in the order in which it stands, and is seen.
        passed = []
        for _ in range(20):
            passed.append(
                await page.evaluate(
                    """() => {
                        const here = document.activeElement;
                        const ring = here.closest(".button") ?? here;
                        const style = getComputedStyle(ring).outlineStyle;
                        const name = here.labels?.[0]?.textContent ?? here.textContent;
                        return [style !== "none", name.trim().replace(/\\s+/g, " ")];
                    }"""
                )
            )
            await page.keyboard.press("Tab")
        names = [name for _, name in passed]
        assert names[:5] == ["Question", "Add files", "New chat", "Ask", "Settings"]
        for wanted in ("Temperature", "Seed", "Copy curl", "Copy Python", "Copy gRPC"):
            assert wanted in names
        *controls, (is_page_ringed, _) = passed
        assert all(is_ringed for is_ringed, _ in controls), passed
        assert not is_page_ringed  # the control: after the last one nothing has the focus


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(
    page: Page, scheme: Literal["light", "dark"], red: Path
) -> None:
    await page.emulate_media(color_scheme=scheme)
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await visit.open()
        await visit.drop(red)
        await visit.ask("first")
        await visit.ask("break")
        contrasts: dict[str, float] = await page.evaluate(CONTRASTS)
        ground = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    print(f"{scheme} on {ground}: {len(contrasts)} texts, lowest {min(contrasts.values()):.1f}")
    assert len(contrasts) > 20
    assert {name: value for name, value in contrasts.items() if value < READABLE} == {}
    is_dark = int(re.findall(r"\d+", ground)[0]) < 128
    assert is_dark == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_nothing_is_wider_than_the_screen(chromium: Browser, width: int, photo: Path) -> None:
    context = await chromium.new_context(
        viewport={"width": width, "height": 740}, has_touch=width == 360, is_mobile=width == 360
    )
    async with served(ScriptedEngine()) as house:
        page = await context.new_page()
        visit = Visit(page, house.url)
        await visit.open()
        assert await page.get_by_text("Take a picture").is_visible() == (width == 360)
        await page.locator("details").evaluate_all("(all) => all.forEach((d) => { d.open = true })")
        await page.locator("#files").set_input_files([photo] * 4)
        await visit.pictures(4)
        await visit.ask("wide " * 40 + "w" * 300)
        for name in ("alert", "turns", "code"):
            assert await page.locator(f"#{name}").count() == 1
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert json.dumps(visit.problems) == "[]"
    await context.close()
