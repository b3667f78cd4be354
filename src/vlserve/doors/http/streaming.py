"""An answer on its way to a caller who may hang up, and what is known of the time it took."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlserve.timings import Stage, Timings
from vlserve.types import Chunk

T = TypeVar("T")
_STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class CallerGone(Exception):  # noqa: N818
    """Nobody is there who would read an answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Where the caller hangs up before, the work is ended first, and CallerGone
    is raised: also where both come at once, since nobody else is told that he went."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait((working, watching))
    if not watching.cancelled():
        for task in (working, watching):
            if not task.cancelled():
                task.exception()  # looked at, so that nobody says that it was not
        raise CallerGone
    return working.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class TimedAnswer:
    """An answer of the service without the pieces that hold nothing, and its times: of several
    answers those of the one that ended last.

    Whoever takes it closes it.
    """

    def __init__(self, chunks: AsyncGenerator[Chunk]) -> None:
        self._chunks = chunks
        self._timings = Timings()
        self._first: Chunk | None = None

    async def begin(self) -> None:
        """Returns when there is a first piece. What is refused is raised here."""
        self._first = await self._next()

    def __aiter__(self) -> "TimedAnswer":
        return self

    async def __anext__(self) -> Chunk:
        if self._first is None:
            return await self._next()
        first, self._first = self._first, None
        return first

    async def aclose(self) -> None:
        """End it, where it has not ended."""
        await self._chunks.aclose()

    @property
    def first_timing(self) -> str:
        """Server-Timing of what is known with the first piece, in ms."""
        timings = self._timings
        durations_s: dict[str, float] = {stage: timings.of(stage) for stage in Stage}
        del durations_s[Stage.DECODE]
        return _server_timing({**durations_s, "first-token": timings.first_token_s})

    @property
    def timing(self) -> str:
        """Server-Timing of the whole answer, in ms."""
        timings = self._timings
        rest = _server_timing({Stage.DECODE: timings.decode_s, "total": timings.total_s})
        return f"{self.first_timing}, {rest}"

    async def _next(self) -> Chunk:
        async for chunk in self._chunks:
            self._timings = chunk.timings or self._timings
            if chunk.text or chunk.token_ids or chunk.finish_reason:
                return chunk
        raise StopAsyncIteration


def _server_timing(durations_s: Mapping[str, float]) -> str:
    return ", ".join(f"{name};dur={s * 1000:.1f}" for name, s in durations_s.items())


async def whole(request: Request, answer: TimedAnswer) -> list[Chunk]:
    """All of an answer. Raises what the answer does, or CallerGone."""

    async def read() -> list[Chunk]:
        return [chunk async for chunk in answer]

    async with aclosing(answer):
        return await unless_gone(request.receive, read())


async def begun(request: Request, answer: TimedAnswer) -> None:
    """Returns when the answer has begun; closes it where it does not. Raises as `whole`."""
    try:
        await unless_gone(request.receive, answer.begin())
    except BaseException:
        await answer.aclose()
        raise


class EventStream(Response):
    """Server-sent events made of an answer, which has begun and which is closed at the end: when
    they are all sent, or the caller hangs up."""

    media_type = "text/event-stream"

    def __init__(self, answer: TimedAnswer, events: AsyncGenerator[bytes]) -> None:
        self.status_code = 200
        self.background = None
        self._answer = answer
        self._events = events
        self.init_headers(_STREAM_HEADERS | {"server-timing": answer.first_timing})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them as they come."""
        del scope
        async with aclosing(self._answer):
            with suppress(CallerGone):
                await unless_gone(receive, self._sent(send))

    async def _sent(self, send: Send) -> None:
        async with aclosing(self._events):
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_schema(*kinds: type[BaseModel]) -> dict[str, Any]:
    """Of events of these kinds, for the OpenAPI document. Whole in itself: the document's own list
    of schemas has none but those of JSON bodies."""
    return {"anyOf": [_inlined(kind.model_json_schema(mode="serialization")) for kind in kinds]}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            name = value.get("$ref", "").rpartition("/")[2]
            inner = kinds[name] if name else value
            return {key: whole(each) for key, each in inner.items()}
        return [whole(each) for each in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = whole(schema)
    return inlined


def event(data: BaseModel | dict[str, Any] | str, name: str = "") -> bytes:
    """One server-sent event."""
    if isinstance(data, BaseModel):
        text = data.model_dump_json(exclude_unset=True)
    else:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()
