"""An engine whose every move a test can see: slots, steps, and an answer known beforehand."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from vlserve.engines.base import EngineInfo, Load
from vlserve.errors import Code, ServeError, invalid
from vlserve.timings import Stage, Stopwatch
from vlserve.types import (
    Chunk,
    FinishReason,
    Guide,
    GuideKind,
    ImageCount,
    Request,
    TokenCount,
    TokenLogprob,
    Usage,
)

MODEL = "scripted"
REFUSED = Guide(GuideKind.REGEX, "refused")
ENDLESS = {"hold": "on ", "flood": "on " * 100_000}


class ScriptedEngine:
    """Answers with the pictures' digests and the last text, a word a step, `num_slots` at a time.

    A request whose last text is "break" fails in mid-answer, one with the guide REFUSED before it;
    "hold" runs until it is dropped, and
    "flood" does so in large pieces.
    """

    def __init__(self, num_slots: int = 4, step_s: float = 0.0) -> None:
        self.num_slots = num_slots
        self.step_s = step_s
        self.seen: list[Request] = []
        self.num_running = 0
        self.num_waiting = 0
        self.num_steps = 0
        self.is_closed = False
        self._slots = asyncio.Semaphore(num_slots)

    async def start(self) -> None:
        await asyncio.sleep(0)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(MODEL, "scripted", "cpu", "none", 0, 0, 0, 4096, self.num_slots, True)

    def load(self) -> Load:
        free = self.num_slots - self.num_running
        return Load(self.num_running, self.num_waiting, free, self.num_steps)

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        if request.sampling.guide == REFUSED:
            raise invalid("guide", "cannot be followed")
        self.seen.append(request)
        watch = Stopwatch()
        watch.enter(Stage.QUEUE)
        self.num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        watch.enter(Stage.PREFILL)
        try:
            for i, chunk in enumerate(self._answer(request)):
                await asyncio.sleep(self.step_s)
                if self.is_closed:
                    raise ServeError(Code.UNAVAILABLE, "the engine is closed")
                self.num_steps += 1
                if chunk.text == "break ":
                    raise RuntimeError("secret: /some/path at 0x7f00")
                if i == 0:
                    watch.enter(Stage.DECODE)
                is_timed = i == 0 or chunk.finish_reason is not None
                if is_timed:
                    num = len(answer(request)) + 10
                    usage = chunk.usage or Usage(num, 10, len(chunk.token_ids))
                    chunk = replace(chunk, usage=usage, timings=watch.timings())  # noqa: PLW2901
                yield chunk
        finally:
            self.num_running -= 1
            self._slots.release()

    async def count(self, request: Request) -> TokenCount:
        """Ten tokens a picture and one a word, as in the usage of an answer."""
        parts = [part for message in request.messages for part in message.content]
        images = tuple(
            ImageCount(part.width, part.height, tokens=10, tiles=2)
            for part in parts
            if not isinstance(part, str)
        )
        if "break" in parts:
            raise RuntimeError("secret: /some/path at 0x7f00")
        num_words = sum(len(part.split()) for part in parts if isinstance(part, str))
        return TokenCount(10 * len(images) + num_words, 10 * len(images), images)

    def _answer(self, request: Request) -> Iterator[Chunk]:
        words = answer(request)
        while words[-1] in ENDLESS:
            yield Chunk(ENDLESS[words[-1]], (0,))
        likely = request.sampling.logprobs is not None
        for i, word in enumerate(words):
            token = TokenLogprob(i, -0.5, word.encode(), (TokenLogprob(i + 1, -0.25, b"\xc3"),))
            yield Chunk(word + " ", (i,), logprobs=(token,) if likely else ())
        yield Chunk("", (), FinishReason.STOP, Usage(len(words) + 10, 10, len(words)))

    async def ended(self) -> None:
        """Never: nothing here dies."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.is_closed = True
        await asyncio.sleep(0)


def answer(request: Request) -> list[str]:
    """The words of the answer to a request."""
    content = request.messages[-1].content
    digests = [part.sha256 for part in content if not isinstance(part, str)]
    texts = [word for part in content if isinstance(part, str) for word in part.split()]
    return [*digests, *texts] or ["nothing"]
