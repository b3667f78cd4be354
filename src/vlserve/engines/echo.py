"""An engine without a model: it says what it was given, word by word."""

import asyncio
import re
import zlib
from collections import deque
from collections.abc import AsyncGenerator

from vlserve.engines.base import Begun, EngineInfo, Load
from vlserve.engines.stop_strings import StopStrings
from vlserve.errors import invalid, stopping, too_long
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.timings import Stage, Stopwatch
from vlserve.types import (
    Chunk,
    Detail,
    FinishReason,
    Image,
    ImageCount,
    Message,
    Request,
    TokenCount,
    Usage,
)

MAX_CONTEXT_TOKENS = 16384
_WORD = re.compile(r"\s*\S+|\s+$")


class EchoEngine:
    """An Engine whose answer is an account of the request; a token is a word or a picture."""

    def __init__(self, model: ModelSettings, settings: EngineSettings) -> None:
        self._name = model.name or "echo"
        self._max_running = settings.max_running
        self._num_running = 0
        self._num_steps = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = asyncio.Event()

    async def start(self) -> None:
        """Nothing to load."""

    @property
    def info(self) -> EngineInfo:
        """Facts of an engine that holds no model."""
        return EngineInfo(
            model=self._name,
            engine="echo",
            device="none",
            dtype="none",
            num_parameters=0,
            weight_bytes=0,
            cache_bytes=0,
            max_context_tokens=MAX_CONTEXT_TOKENS,
            max_running=self._max_running,
            is_batched=False,
        )

    def load(self) -> Load:
        """What runs and waits now."""
        return Load(
            num_running=self._num_running,
            num_waiting=len(self._waiting),
            num_free_slots=self._max_running - self._num_running,
            num_steps=self._num_steps,
        )

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | Begun]:
        """The account, a Chunk a word. Raises ServeError(INVALID_ARGUMENT) for what only a model
        can do."""
        watch = Stopwatch()
        watch.enter(Stage.PREPROCESS)
        for name in ("guide", "logprobs"):
            if getattr(request.sampling, name) is not None:
                raise invalid(
                    name, "is not served by the echo engine, which holds no model (engine.kind)"
                )
        account = "; ".join(_account(message) for message in request.messages)
        prompt = _count(request)
        num_left = MAX_CONTEXT_TOKENS - prompt.prompt_tokens
        if num_left < 1:
            raise too_long(MAX_CONTEXT_TOKENS, prompt.prompt_tokens)
        words = _WORD.findall(account)
        limit = min(request.sampling.max_tokens, num_left)
        stop = StopStrings(request.sampling.stop)
        watch.enter(Stage.QUEUE)
        await self._take_slot()
        watch.enter(Stage.PREFILL)
        try:
            yield Begun()
            for count, word in enumerate(words, 1):
                await self._step()
                if count == 1:
                    watch.enter(Stage.DECODE)
                text = stop.push(word)
                token_ids = (zlib.crc32(word.encode()),)
                finish = _finish_reason(count, len(words), limit, stop)
                usage = Usage(prompt.prompt_tokens, prompt.image_tokens, completion_tokens=count)
                if finish is None:
                    so_far = (usage, watch.timings()) if count == 1 else (None, None)
                    yield Chunk(text, token_ids, None, so_far[0], timings=so_far[1])
                    continue
                text += stop.finish()
                yield Chunk(text, token_ids, finish, usage, timings=watch.timings())
                return
        finally:
            self._give_slot_back()

    async def count(self, request: Request) -> TokenCount:
        """A word is a token, and a picture is one of one tile."""
        if self._closed.is_set():
            raise stopping()
        return _count(request)

    async def ended(self) -> None:
        """Returns once it is closed."""
        await self._closed.wait()

    async def close(self) -> None:
        """Those who wait or run end with UNAVAILABLE."""
        self._closed.set()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(stopping())

    async def _step(self) -> None:
        await asyncio.sleep(0)
        if self._closed.is_set():
            raise stopping()
        self._num_steps += 1

    async def _take_slot(self) -> None:
        if self._closed.is_set():
            raise stopping()
        if self._num_running == self._max_running:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled() and turn.exception() is None:
                    self._give_slot_back()
                raise
        else:
            self._num_running += 1

    def _give_slot_back(self) -> None:
        # Handed straight to who waits longest: a slot that looked free could be taken by others.
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._num_running -= 1


def _count(request: Request) -> TokenCount:
    parts = [part for message in request.messages for part in message.content]
    images = tuple(
        ImageCount(part.width, part.height, tokens=1, tiles=1)
        for part in parts
        if not isinstance(part, str)
    )
    num_words = sum(len(_WORD.findall(part)) for part in parts if isinstance(part, str))
    return TokenCount(len(images) + num_words, len(images), images)


def _account(message: Message[Image]) -> str:
    texts = " ".join(part for part in message.content if isinstance(part, str))
    pictures = [_shown(picture) for picture in message.pictures()]
    said = f"{message.role.value} said: {texts}" if texts else f"{message.role.value} said nothing"
    if not pictures:
        return said
    noun = "picture" if len(pictures) == 1 else "pictures"
    return f"{said}; {len(pictures)} {noun}: {', '.join(pictures)}"


def _shown(picture: Image) -> str:
    detail = "" if picture.detail is Detail.AUTO else f" {picture.detail}"
    return f"{picture.width}x{picture.height} sha256 {picture.sha256[:12]}{detail}"


def _finish_reason(
    count: int, num_words: int, limit: int, stop: StopStrings
) -> FinishReason | None:
    if stop.is_stopped or count == num_words:
        return FinishReason.STOP
    return FinishReason.LENGTH if count == limit else None
