"""The service that every door opens into: admit, load pictures, bound, stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import TypeVar

from vlserve.budget import Budget, Claim
from vlserve.engines.base import Begun, Engine, EngineInfo
from vlserve.errors import Code, ServeError, quoted, stopping
from vlserve.media.room import MediaRoom
from vlserve.service.check import check
from vlserve.service.fan_out import merge, single_answers, with_images
from vlserve.service.queue import FIRST_DURATION_S, Queue
from vlserve.service.settled import settled
from vlserve.settings import MIB, LimitSettings, MediaSettings
from vlserve.timings import Stopwatch
from vlserve.types import (
    ChatRequest,
    Chunk,
    TokenCount,
    Upload,
)

Item = TypeVar("Item")


class Service:
    """One engine behind admission, decoding and deadlines. Starts closed: `open` lets in."""

    def __init__(
        self, engine: Engine, limits: LimitSettings, media: MediaSettings | None = None
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._queue: Queue | None = None
        self._is_draining = False
        self._bodies = Budget(limits.max_bodies_mib * MIB)
        self._media = MediaRoom(media or MediaSettings(), limits)

    @property
    def num_inside(self) -> int:
        """Permits that are out: one for each answer that is being made or waits for it."""
        return self._queue.num_inside if self._queue else 0

    @property
    def info(self) -> EngineInfo:
        """Facts of the engine that answers. Raises ServeError(UNAVAILABLE) while it starts or
        drains."""
        self._opened_queue()
        return self._engine.info

    def find_model(self, model: str, field: str = "model") -> EngineInfo:
        """Facts of the engine, which serves `model`. Raises ServeError: NOT_FOUND naming `field`
        where it serves another, UNAVAILABLE while it starts or drains."""
        info = self.info
        if model != info.model:
            message = f"model {quoted(model)} is not served here"
            message += f"; this server serves {quoted(info.model)}"
            raise ServeError(Code.NOT_FOUND, message, field=field)
        return info

    def expect(self) -> None:
        """For a door that has not read a request yet: raises ServeError where `chat` would now,
        whatever the request says, OVERLOADED or UNAVAILABLE."""
        self._opened_queue().expect()

    def body(self) -> AbstractContextManager[Claim]:
        """A claim on what the messages of all requests may hold together, in bytes: for a door,
        until the request is answered. It grows as the message comes."""
        return self._bodies.claim(
            "the messages of all requests hold too much, ask again: together at most"
            f" {self._limits.max_bodies_mib} MiB (limits.max_bodies_mib)"
        )

    def warm(self) -> None:
        """Start what decodes, so that the first picture does not wait for it. Returns at once."""
        self._media.start()

    def open(self) -> None:
        """Let in as many as the engine, which has started, runs and the limit lets wait."""
        limits = self._limits
        self._queue = Queue(self._engine.info.max_running, limits.max_waiting, limits.timeout_s)

    async def drain(self) -> None:
        """Refuse new requests with UNAVAILABLE and return when the last one inside has ended."""
        self._is_draining = True
        if self._queue is not None:
            await self._queue.empty()

    def close(self) -> None:
        """End the processes that decode, whatever they do."""
        self._is_draining = True
        self._media.close()

    async def upload(
        self,
        data: bytes,
        tenant: str = "",
        field: str = "file",
        *,
        name: str = "",
        purpose: str = "",
    ) -> Upload:
        """Keep an encoded picture or video for a time. Its reference stands in the `url` of an
        ImageRef or VideoRef of the same tenant's requests.

        Raises ServeError: INVALID_ARGUMENT naming `field`, UNAVAILABLE while starting or draining.
        """
        self._opened_queue()
        return await self._media.upload(data, tenant, field, name=name, purpose=purpose)

    def uploaded(self, reference: str, tenant: str = "", field: str = "file_id") -> Upload:
        """What the tenant uploaded. Raises ServeError: NOT_FOUND naming `field` where it is not
        kept, UNAVAILABLE while starting or draining."""
        self._opened_queue()
        return self._media.uploaded(reference, tenant, field)

    def forget(self, reference: str, tenant: str = "", field: str = "file_id") -> None:
        """Keep an upload no longer. A request that has begun keeps what it has. Raises as
        `uploaded`."""
        self._opened_queue()
        self._media.forget(reference, tenant, field)

    async def chat(
        self, request: ChatRequest, timeout_s: float | None = None
    ) -> AsyncGenerator[Chunk]:
        """The answer, piece by piece, the last piece with a finish reason; of several answers
        the pieces as they come, each with its answer's `index`, and a last piece for each.

        Each answer takes a place of its own, all of them at once or none. `timeout_s` is the
        caller's deadline; the limit's own holds as well. Closing the iterator at any time ends
        the work. Raises ServeError: NOT_FOUND for a model that is not served, INVALID_ARGUMENT
        naming the field, OVERLOADED with a time to come again, DEADLINE_EXCEEDED, UNAVAILABLE
        while starting or draining, or what the engine raises.
        """
        deadline = _Deadline(timeout_s, self._limits.timeout_s)
        queue = self._checked(request)
        request = settled(request, self._engine.info, self._limits)
        with queue.permit(request.sampling.n):
            async with aclosing(self._answer(request)) as answer:
                while (chunk := await deadline.before(answer)) is not None:
                    yield chunk

    async def count(self, request: ChatRequest, timeout_s: float | None = None) -> TokenCount:
        """What a request takes of the context, without an answer: no model runs, no slot is waited
        for. Admitted and checked as in `chat`, one place for all answers; raises as it does."""
        deadline = _Deadline(timeout_s, self._limits.timeout_s)
        queue = self._checked(request)
        with queue.permit():
            async with aclosing(self._counted(request)) as counted:
                count = await deadline.before(counted)
        assert count is not None  # noqa: S101  it yields one, or raises
        return count

    async def _counted(self, request: ChatRequest) -> AsyncGenerator[TokenCount]:
        async with self._media.decode(request, Stopwatch()) as media:
            messages = with_images(request.messages, media.images)
            yield await self._engine.count(next(single_answers(request, messages)))

    def _checked(self, request: ChatRequest) -> Queue:
        """Where a request may queue that makes sense."""
        queue = self._opened_queue()
        if request.model:
            self.find_model(request.model)
        check(request, self._limits)
        return queue

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        watch = Stopwatch()
        async with self._media.decode(request, watch) as media:
            before = watch.timings()
            # Nothing here keeps decoded pictures: the engine drops them once it has encoded them.
            answers = [
                self._engine.generate(each)
                for each in single_answers(request, with_images(request.messages, media.images))
            ]
            media.images.clear()
            chunks = answers[0] if len(answers) == 1 else merge(answers)
            async with aclosing(chunks):
                async for chunk in chunks:
                    media.share.give_back()
                    if isinstance(chunk, Begun):
                        continue
                    if chunk.timings is not None:
                        chunk = replace(chunk, timings=before.then(chunk.timings))  # noqa: PLW2901
                    yield chunk

    def _opened_queue(self) -> Queue:
        if self._queue is not None and not self._is_draining:
            return self._queue
        if self._is_draining:
            raise stopping()
        message = "the server is starting: ask again when it is ready"
        raise ServeError(Code.UNAVAILABLE, message, retry_after_s=FIRST_DURATION_S)


class _Deadline:
    """The end of a request's time: the caller's, or the limit's where that is earlier."""

    def __init__(self, timeout_s: float | None, limit_s: float) -> None:
        is_callers = timeout_s is not None and timeout_s <= limit_s
        longest_s = timeout_s if timeout_s is not None and is_callers else limit_s
        self._at_s = asyncio.get_running_loop().time() + longest_s
        whose = "the request's own deadline" if is_callers else "limits.timeout_s"
        self._message = f"not answered within {max(0.0, longest_s):.3g} s ({whose})"

    async def before(self, items: AsyncIterator[Item]) -> Item | None:
        """The next item, None at the end. One at a time: a timeout that spans a `yield` would
        strike whatever the reader does in between. Raises ServeError(DEADLINE_EXCEEDED)."""
        if asyncio.get_running_loop().time() >= self._at_s:
            raise self._late()
        try:
            async with asyncio.timeout_at(self._at_s) as deadline:
                return await anext(items, None)
        except TimeoutError:
            if deadline.expired():
                raise self._late() from None
            raise

    def _late(self) -> ServeError:
        message = f"{self._message}: ask for fewer tokens, or allow more time"
        return ServeError(Code.DEADLINE_EXCEEDED, message)
