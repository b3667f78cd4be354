"""Chromium, driven as a person would: what is on the page, what is done to it, what it asks for."""

import asyncio
import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import CDPSession, Page, Request

# What a page of ours may ask for: its server, and what is in the page itself.
OWN_SCHEMES = {"data", "blob"}
WATCH = """() => {
    window.seen = [];
    const note = () => {
        const article = document.querySelector("article:last-child");
        const text = article.querySelector(".answer").textContent;
        if (text && text !== window.seen.at(-1)?.text) {
            window.seen.push({ text, at: performance.now(), busy: article.ariaBusy });
        }
    };
    const all = { subtree: true, childList: true, characterData: true };
    new MutationObserver(note).observe(document.getElementById("turns"), all);
}"""


class Visit:
    """The playground in a page, and every request that the page makes from now on."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[Request] = []
        self.problems: list[str] = []
        page.on("request", self._note)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    async def open(self) -> None:
        """Go there; returns once the models are listed."""
        await self.page.goto(self.url)
        await self.page.wait_for_selector("#model:not([disabled])")

    def leaving(self) -> list[str]:
        """The addresses of requests that went elsewhere than to the page's own server."""
        return [
            request.url
            for request in self.requests
            if urlsplit(request.url).scheme not in OWN_SCHEMES
            and urlsplit(request.url).netloc != urlsplit(self.url).netloc
        ]

    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the chat calls, in order."""
        return [
            json.loads(request.post_data or "")
            for request in self.requests
            if request.url.endswith("/v1/chat/completions")
        ]

    async def drop(self, *files: Path) -> None:
        """Drag files from the desktop onto the middle of the page, by the browser's own drag."""
        session: CDPSession = await self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await session.send(
                "Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data}
            )
        await session.detach()

    async def paste(self, png: bytes) -> None:
        """Put a picture on the clipboard and press the keys."""
        await self.page.evaluate(
            """async (bytes) => {
                const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
                await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            }""",
            list(png),
        )
        await self.page.locator("#question").press("Control+v")

    async def pictures(self, count: int) -> None:
        """Returns once so many pictures are in the draft."""
        await self.page.wait_for_function(
            "(count) => document.querySelectorAll('#pictures li').length === count", arg=count
        )

    async def ask(self, question: str) -> str:
        """Ask by the button; the answer once it is whole."""
        await self.page.locator("#question").fill(question)
        await self.page.get_by_role("button", name="Ask").click()
        return await self.answer()

    async def begun(self) -> None:
        """Returns once some words of the last answer are there."""
        await self.page.wait_for_function(
            "() => document.querySelector('article:last-child .answer')?.textContent.length > 9"
        )

    async def answer(self) -> str:
        """The last answer once it has ended."""
        await self.page.wait_for_selector("#ask:visible")
        last = self.page.locator("article").last
        assert await last.get_attribute("aria-busy") == "false"
        return (await last.locator(".answer").text_content()) or ""

    async def notes(self) -> str:
        """What stands below the last answer."""
        return (await self.page.locator("article .notes").last.text_content()) or ""

    async def alert(self) -> str:
        """What the page says went wrong, once it does."""
        await self.page.wait_for_selector("#alert:not(:empty)")
        return (await self.page.locator("#alert").text_content()) or ""

    async def watch(self) -> None:
        """Note each change of the last answer from now on."""
        await self.page.evaluate(WATCH)

    async def seen(self) -> list[dict[str, Any]]:
        """What was noted: `text` so far, `at` in ms, whether it was still `busy`."""
        seen = await self.page.evaluate("() => window.seen")
        assert isinstance(seen, list)
        return seen

    async def copied(self, name: str) -> str:
        """Press a copy button; what is on the clipboard then."""
        await self.page.locator("#code").evaluate("(details) => { details.open = true }")
        await self.page.get_by_role("button", name=f"Copy {name}").click()
        await self.page.wait_for_function(
            "() => document.getElementById('copied').textContent.includes('clipboard')"
        )
        text = await self.page.evaluate("() => navigator.clipboard.readText()")
        assert isinstance(text, str)
        return text


async def run(*command: str | Path, cwd: Path) -> str:
    """What a program prints. Fails where it does."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def url_of(path: Path) -> str:
    """The data: URL in which the page sends a file."""
    kind = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def figures(notes: str, names: Iterable[str]) -> dict[str, float]:
    """The numbers in the line below an answer that stand before or after these words."""
    found = {}
    for name in names:
        match = re.search(rf"{name} ([\d.]+)|([\d.]+) (?:s )?{name}", notes)
        assert match, f"no {name} in {notes!r}"
        found[name] = float(match[1] or match[2])
    return found
