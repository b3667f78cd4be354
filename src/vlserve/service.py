"""The hall that every door opens into: admit, load pictures, bound, stream."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from vlserve.budget import Budget, Claim, Share
from vlserve.engines.base import Engine, EngineInfo
from vlserve.errors import Code, ServeError, invalid
from vlserve.media.bounds import allowed
from vlserve.media.room import MediaRoom
from vlserve.settings import MIB, LimitSettings, MediaSettings
from vlserve.timings import Stage, Stopwatch, Timings
from vlserve.types import (
    MAX_SEED,
    NOT_UNICODE,
    ChatRequest,
    Chunk,
    Image,
    ImageRef,
    Message,
    Request,
    Role,
    TokenCount,
    Upload,
    VideoRef,
    is_unicode,
)

MIN_RETRY_S: Final = 0.1
_FIRST_DURATION_S: Final = 1.0  # of a request, while none has ended yet
_RECENT: Final = 32
_ROUNDS: Final = 4  # times that all places come free, over which those who were refused spread
_MARGIN: Final = 1.25  # places come free unevenly, and to come in vain costs more than to come late
Item = TypeVar("Item")


class Queue:
    """Permits to be inside the hall: at most `num_running` + `num_waiting` at a time.

    Who finds no place is told when to come again. Those who were refused are told different
    times, one place apart, so that they do not all come back for the same one. How fast places
    come free is measured only while requests wait, since an idle hall says nothing about it;
    until then it is guessed from how long a request takes.
    """

    def __init__(self, num_running: int, num_waiting: int, longest_s: float) -> None:
        self._num_running = num_running
        self._num_places = num_running + num_waiting
        self._longest_s = longest_s
        self._num_inside = 0
        self._intervals_s: deque[float] = deque(maxlen=_RECENT)
        self._durations_s: deque[float] = deque([_FIRST_DURATION_S], maxlen=_RECENT)
        self._last_free_s = 0.0
        self._promised_s = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_inside(self) -> int:
        """Permits that are out now."""
        return self._num_inside

    @contextmanager
    def permit(self, num: int = 1) -> Iterator[None]:
        """`num` places for as long as the context lasts. Raises ServeError at once where there
        are not so many: OVERLOADED, or INVALID_ARGUMENT naming `n` where there never will be."""
        if num > self._num_places:
            raise invalid("n", f"must be at most {self._num_places}")
        self.expect(num)
        begin_s = asyncio.get_running_loop().time()
        if self._num_inside <= self._num_running < self._num_inside + num:  # the first who waits
            self._last_free_s = begin_s
        self._num_inside += num
        self._empty.clear()
        try:
            yield
        finally:
            self._release(begin_s, num)

    def expect(self, num: int = 1) -> None:
        """Raises ServeError(OVERLOADED) where there are not so many places now; takes none."""
        if self._num_inside + num > self._num_places:
            raise ServeError(
                Code.OVERLOADED,
                "too many requests are running and waiting",
                retry_after_s=self._retry_after_s(num),
            )

    async def empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()

    def _release(self, begin_s: float, num: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._num_inside > self._num_running:  # somebody waited for these places
            self._intervals_s.append((now - self._last_free_s) / num)
            self._last_free_s = now
        self._durations_s.append(now - begin_s)
        self._num_inside -= num
        if self._num_inside == 0:
            self._empty.set()

    def _retry_after_s(self, num: int) -> float:
        now = asyncio.get_running_loop().time()
        if self._intervals_s:
            interval_s = sum(self._intervals_s) / len(self._intervals_s)
        else:
            interval_s = sum(self._durations_s) / len(self._durations_s) / self._num_running
        interval_s *= _MARGIN
        # So many at most, and no longer than until whoever is inside has timed out. Then from the
        # beginning: one who keeps asking too early must not send all others far away.
        latest = now + min(self._longest_s, _ROUNDS * self._num_places * interval_s)
        promised_s = max(now, self._promised_s) + num * interval_s
        self._promised_s = promised_s if promised_s <= latest else now + num * interval_s
        return min(self._longest_s, max(MIN_RETRY_S, self._promised_s - now))


class Service:
    """One engine behind admission, decoding and deadlines. Starts closed: `open` lets in."""

    def __init__(
        self, engine: Engine, limits: LimitSettings, media: MediaSettings | None = None
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._queue: Queue | None = None
        self._is_draining = False
        self._decoded = Budget(limits.max_decoded_pixels)
        self._bodies = Budget(limits.max_bodies_mib * MIB)
        self._media = MediaRoom(media or MediaSettings(), limits)

    @property
    def num_inside(self) -> int:
        """Permits that are out: one for each answer that is being made or waits for it."""
        return self._queue.num_inside if self._queue else 0

    def models(self) -> tuple[EngineInfo, ...]:
        """What this hall answers for. Raises ServeError(UNAVAILABLE) unless it is open."""
        self._opened_queue()
        return (self._engine.info,)

    def expect(self) -> None:
        """For a door that has not read a request yet: raises ServeError where `chat` would now,
        whatever the request says, OVERLOADED or UNAVAILABLE."""
        self._opened_queue().expect()

    def body(self) -> AbstractContextManager[Claim]:
        """A claim on what the messages of all requests may hold together, in bytes: for a door,
        until the request is answered. It grows as the message comes."""
        return self._bodies.claim("the requests that are here hold too much")

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
        deadline_s = self._deadline_s(timeout_s)
        queue = self._checked(request)
        with queue.permit(request.sampling.n):
            async with aclosing(self._answer(request)) as answer:
                while (chunk := await _before(deadline_s, answer)) is not None:
                    yield chunk

    async def count(self, request: ChatRequest, timeout_s: float | None = None) -> TokenCount:
        """What a request takes of the context, without an answer: no model runs, no slot is waited
        for. Admitted and checked as in `chat`, one place for all answers; raises as it does."""
        deadline_s = self._deadline_s(timeout_s)
        queue = self._checked(request)
        with queue.permit():
            async with aclosing(self._counted(request)) as counted:
                count = await _before(deadline_s, counted)
        assert count is not None  # noqa: S101  it yields one, or raises
        return count

    async def _counted(self, request: ChatRequest) -> AsyncGenerator[TokenCount]:
        async with self._loaded(request) as (_, pictures, _):
            messages = _filled(request.messages, pictures)
            yield await self._engine.count(next(_single_answers(request, messages)))

    def _deadline_s(self, timeout_s: float | None) -> float:
        limit_s = self._limits.timeout_s
        longest_s = limit_s if timeout_s is None else min(timeout_s, limit_s)
        return asyncio.get_running_loop().time() + longest_s

    def _checked(self, request: ChatRequest) -> Queue:
        """Where a request may queue that makes sense."""
        queue = self._opened_queue()
        if request.model not in ("", self._engine.info.model):
            raise ServeError(Code.NOT_FOUND, "is not a model that is served here", field="model")
        check(request, self._limits)
        return queue

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        async with self._loaded(request) as (share, pictures, before):
            # Nothing here keeps decoded pictures: the engine lets go of them once they are seen.
            answers = [
                self._engine.generate(each)
                for each in _single_answers(request, _filled(request.messages, pictures))
            ]
            pictures.clear()
            chunks = answers[0] if len(answers) == 1 else _merged(answers)
            async with aclosing(chunks):
                async for chunk in chunks:
                    share.give_back()
                    if chunk.timings is not None:
                        chunk = replace(chunk, timings=before.then(chunk.timings))  # noqa: PLW2901
                    yield chunk

    @asynccontextmanager
    async def _loaded(
        self, request: ChatRequest
    ) -> AsyncIterator[tuple[Share, list[tuple[Image, ...]], Timings]]:
        """The pictures of a request, a video's frames together, their share of the budget, and what
        it took to have them."""
        watch = Stopwatch()
        watch.enter(Stage.MEDIA_DECODE)
        refs = [ref for message in request.messages for ref in message.pictures()]
        sources = await self._media.sources(refs, request.tenant, request.media_bounds)
        watch.was(Stage.FETCH, max((source.fetch_s for source in sources), default=0.0))
        num_pixels = await self._media.num_pixels(sources)
        watch.enter(Stage.QUEUE)
        async with self._decoded.share(num_pixels) as share:
            watch.enter(Stage.MEDIA_DECODE)
            images = await self._media.images(sources)
            sources.clear()
            yield share, images, watch.timings()

    def _opened_queue(self) -> Queue:
        if self._queue is not None and not self._is_draining:
            return self._queue
        message = "the server is shutting down" if self._is_draining else "the server is starting"
        raise ServeError(Code.UNAVAILABLE, message, retry_after_s=_FIRST_DURATION_S)


def _filled(
    messages: tuple[Message[ImageRef | VideoRef], ...], images: list[tuple[Image, ...]]
) -> tuple[Message[Image], ...]:
    """The messages with `images` in place of what stands for them, a video's frames in a row."""
    of_ref = iter(images)
    return tuple(
        Message(
            message.role,
            tuple(
                piece
                for part in message.content
                for piece in ((part,) if isinstance(part, str) else next(of_ref))
            ),
        )
        for message in messages
    )


def _single_answers(
    request: ChatRequest, messages: tuple[Message[Image], ...]
) -> Iterator[Request]:
    """The requests for each of the answers, which share the pictures."""
    sampling = request.sampling
    name, seed = uuid.uuid4().hex, sampling.seed
    if sampling.n == 1:
        yield Request(name, messages, sampling, request.tenant)
        return
    for i in range(sampling.n):
        its_seed = None if seed is None else (seed + i) % (MAX_SEED + 1)
        its_own = replace(sampling, n=1, seed=its_seed)
        yield Request(f"{name}-{i}", messages, its_own, request.tenant)


async def _merged(answers: Sequence[AsyncGenerator[Chunk]]) -> AsyncGenerator[Chunk]:
    """The chunks of all answers as they come. One that fails ends all, with its error."""
    chunks: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
    # One place for each, for an answer that nobody reads waits, as it does alone. One place for
    # all would go to whoever comes at the right moment, and to the same one again and again.
    places = [asyncio.Semaphore() for _ in answers]

    async def read(index: int, answer: AsyncGenerator[Chunk]) -> None:
        try:
            async with aclosing(answer):
                async for chunk in answer:
                    await places[index].acquire()
                    chunks.put_nowait(replace(chunk, index=index))
        except Exception as error:
            chunks.put_nowait(error)

    readers = [asyncio.create_task(read(i, answer)) for i, answer in enumerate(answers)]
    try:
        num_left = len(readers)
        while num_left:
            chunk = await chunks.get()
            if isinstance(chunk, Exception):
                raise chunk
            num_left -= chunk.finish_reason is not None
            places[chunk.index].release()
            yield chunk
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def _before(deadline_s: float, items: AsyncIterator[Item]) -> Item | None:
    """The next item, None at the end. One at a time: a timeout that spans a `yield` would
    strike whatever the reader does in between."""
    late = ServeError(Code.DEADLINE_EXCEEDED, "not answered in time")
    if asyncio.get_running_loop().time() >= deadline_s:
        raise late
    try:
        async with asyncio.timeout_at(deadline_s) as deadline:
            return await anext(items, None)
    except TimeoutError:
        if deadline.expired():
            raise late from None
        raise


def check(request: ChatRequest, limits: LimitSettings) -> None:
    """Whether a request makes sense and keeps the limits and its own bounds, told from its form
    alone.

    Raises ServeError(INVALID_ARGUMENT) naming the field: `messages[i].role`, `messages[i]`,
    `max_tokens`, one of `media_bounds`, or the `field` of the first picture too many.
    """
    bounds = allowed(request.media_bounds, limits)
    messages = request.messages
    if not messages:
        raise invalid("messages", "must not be empty")
    for i, message in enumerate(messages):
        if message.role is Role.SYSTEM and i > 0:
            raise invalid(f"messages[{i}].role", "only the first message may be the system's")
        if not any(message.content):
            raise invalid(f"messages[{i}]", "must hold a text or a picture")
        if not all(is_unicode(part) for part in message.content if isinstance(part, str)):
            raise invalid(f"messages[{i}]", NOT_UNICODE)
        for ref in message.pictures():
            if message.role is not Role.USER:
                raise invalid(ref.field, "only the user's messages may hold pictures")
    if messages[-1].role is not Role.USER:
        raise invalid(f"messages[{len(messages) - 1}].role", "the last message must be the user's")
    num_images = 0
    for ref in (ref for message in messages for ref in message.pictures()):
        num_images += _num_images(ref, bounds.max_video_frames)
        if num_images > bounds.max_images:
            raise invalid(ref.field, f"a request may hold at most {bounds.max_images} pictures")
    if request.sampling.max_tokens > limits.max_new_tokens:
        raise invalid("max_tokens", f"must be at most {limits.max_new_tokens}")


def _num_images(ref: ImageRef | VideoRef, max_frames: int) -> int:
    if isinstance(ref, ImageRef):
        return 1
    if not 0 <= ref.max_frames <= max_frames:
        raise invalid(ref.field, f"must ask for at most {max_frames} frames")
    return ref.num_frames(max_frames)
