"""The wall: an engine in its own process, watched, ended and started again.

Who had a part of an answer when the process died is told; who had none is asked again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from vlserve.engines.base import RETRY_S, EngineInfo, Load
from vlserve.engines.child import Child, Lost
from vlserve.engines.wire import (
    Beat,
    Cancel,
    Count,
    Counted,
    Ended,
    Piece,
    Refused,
    Running,
    Submit,
    WireError,
)
from vlserve.errors import Code, ServeError, failed, stopping
from vlserve.models.errors import ModelError
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Chunk, Request, TokenCount

WORKER: Final = "vlserve.engines.worker"
# Without a sign of life, s. The worker gives one each 0.25 s, from a loop that no step blocks.
SILENCE_S: Final = 5.0
# With work and without a step, s: by default a request ends after as long, so that a step which
# takes longer answers nobody.
STALLED_S: Final = 120.0
# Before it is started again: at once at first, then slower. One death more, without an answer in
# between, and it is given up.
PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0)
# Times that a request may be running when the process dies: the first may be another's fault.
MAX_TRIES: Final = 2
_DEADLY: Final = f"the engine died {MAX_TRIES} times at this request: its log says of what"
_DEAD: Final = "the engine has died and starts again: ask again when it has started"
# Deaths after which requests are sent one by one, each when the one before it is heard of:
# something kills before it is known to run, and so it shows what.
CAREFUL_DEATHS: Final = 2
_TICK_S: Final = 0.25
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request that is not answered yet, or only to be counted: `kind` is what it is sent as.
    `request` is kept while it may be sent again; `heard` is set from its first piece on, and when
    it is over. It came at `begin_s` and was sent, at last, `queue_s` later."""

    key: int
    kind: type[Submit | Count]
    request: Request | None
    outbox: asyncio.Queue[Chunk | TokenCount | ServeError | None] = field(
        default_factory=asyncio.Queue
    )
    is_sent: bool = False
    is_begun: bool = False
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    num_tries: int = 0
    begin_s: float = field(default_factory=time.monotonic)
    queue_s: float = 0.0
    first_token_s: float | None = None

    def timed(self, chunk: Chunk) -> Chunk:
        """A piece that comes now, with the times of the engine's process as they are seen here."""
        if chunk.timings is None:
            return chunk
        total_s = time.monotonic() - self.begin_s
        if self.first_token_s is None:
            self.first_token_s = total_s
        timings = replace(
            chunk.timings,
            queue_s=self.queue_s + chunk.timings.queue_s,
            first_token_s=self.first_token_s,
            total_s=total_s,
        )
        return replace(chunk, timings=timings)


class Supervisor:
    """An Engine whose process may die: see `docs/architecture.md`, "The wall".

    `longest_step_s` is after how long without a step the process is taken for hung; `module` is
    what it runs.
    """

    def __init__(
        self,
        model: ModelSettings,
        settings: EngineSettings,
        *,
        longest_step_s: float = STALLED_S,
        module: str = WORKER,
    ) -> None:
        self._model = model
        self._settings = settings
        self._longest_step_s = longest_step_s
        self._module = module
        self._child: Child | None = None
        self._spawned: Child | None = None  # one that no engine was started in yet
        self._keeper: asyncio.Task[None] | None = None
        # In the order in which they came, which is the order in which they are sent again.
        self._tickets: dict[int, _Ticket] = {}
        self._last_key = 0
        self._outbox: asyncio.Queue[_Ticket | Cancel] = asyncio.Queue()
        self._num_steps_before = 0
        self._num_deaths = 0
        self._start_s = RETRY_S
        self._is_heard = False
        self._stalled_s = 0.0
        self._is_closed = False
        self._answering = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._ended = asyncio.Event()

    def spawn(self) -> None:
        """Let the process begin to import what it needs, before `start`. It ends with this one."""
        if self._spawned is None:
            self._spawned = self._child = Child(self._module, self._settings.kind)

    async def start(self) -> None:
        """Start the engine in its process. Raises what the engine raises at its start,
        ServeError(UNAVAILABLE) where the process dies of it."""
        try:
            self._child = await self._started()
        except Lost as lost:
            raise ServeError(Code.UNAVAILABLE, f"the engine did not start: {lost}") from None
        self._keeper = asyncio.create_task(self._keep(self._child))

    @property
    def info(self) -> EngineInfo:
        """Facts of the started engine."""
        return self._info

    @property
    def pid(self) -> int:
        """The number of the process that runs, or ran last."""
        assert self._child is not None  # noqa: S101  it has started
        return self._child.pid

    def load(self) -> Load:
        """What runs and waits, as the process said last; whoever waits for it waits as well."""
        now = self._load
        return replace(
            now,
            num_waiting=max(0, len(self._tickets) - now.num_running),
            num_steps=self._num_steps_before + now.num_steps,
        )

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        """The answer to one request. While the process is started again, it waits."""
        with self._ticket(Submit, request) as ticket:
            del request  # the ticket lets go of the pictures as soon as it can
            while (item := await _next_item(ticket)) is not None:
                assert isinstance(item, Chunk)  # noqa: S101  no other piece answers a Submit
                yield item

    async def count(self, request: Request) -> TokenCount:
        """What its prompt takes. While the process is started again, it waits."""
        with self._ticket(Count, request) as ticket:
            del request
            item = await _next_item(ticket)
            assert isinstance(item, TokenCount)  # noqa: S101  nothing else answers a Count
            return item

    @contextmanager
    def _ticket(self, kind: type[Submit | Count], request: Request) -> Iterator[_Ticket]:
        """A place in the queue, which is left again with the context."""
        if self._is_closed:
            raise self._unavailable()
        self._last_key += 1
        ticket = self._tickets[self._last_key] = _Ticket(self._last_key, kind, request)
        del request
        self._outbox.put_nowait(ticket)
        try:
            yield ticket
        finally:
            ticket.heard.set()
            if self._tickets.pop(ticket.key, None) and ticket.is_sent:
                self._outbox.put_nowait(Cancel(ticket.key))

    async def interrupted(self) -> None:
        """Returns when the process has died and no answer was finished since."""
        await self._interrupted.wait()

    async def answering(self) -> None:
        """Returns when the process that runs has finished an answer."""
        await self._answering.wait()

    async def ended(self) -> None:
        """Returns when it was closed, or has died too often to be started again."""
        await self._ended.wait()

    async def close(self) -> None:
        """End running requests with UNAVAILABLE, and the process."""
        self._refuse_all()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._child is not None:
            await self._child.end()

    async def _started(self) -> Child:
        begin_s = asyncio.get_running_loop().time()
        self.spawn()
        child, self._spawned = self._spawned, None
        assert child is not None  # noqa: S101  just made
        self._child = child
        try:
            self._info = await child.open(self._model, self._settings)
        except Lost as lost:
            raise Lost(f"{lost} ({await child.killed()})") from None
        except (ModelError, OSError, ServeError):
            await child.killed()
            raise
        num_slots = self._info.max_running
        self._load = Load(num_running=0, num_waiting=0, num_free_slots=num_slots, num_steps=0)
        self._start_s = asyncio.get_running_loop().time() - begin_s
        return child

    async def _keep(self, child: Child | None) -> None:
        """One process after the other, until they die too often."""
        try:
            while self._num_deaths <= len(PAUSES_S):
                try:
                    if child is None:
                        await asyncio.sleep(PAUSES_S[self._num_deaths - 1])
                        child = await self._started()
                        _log.warning("the engine has started again")
                    await self._attend(child)
                except (Lost, ModelError, OSError, ServeError) as reason:
                    # Whoever has to be told is told before anything else is waited for.
                    told = self._interrupt()
                    how = await child.killed() if child else "it did not start"
                    _log.error("the engine's process died (%s; %s): %s", reason, how, told)
                    child = None
            _log.critical("%d deaths without an answer: the engine is given up", self._num_deaths)
        except Exception:
            _log.exception("the supervisor failed: the engine is given up")
        finally:
            self._refuse_all()

    async def _attend(self, child: Child) -> None:
        """Raises Lost when the process is of no use any more."""
        tasks = [
            asyncio.create_task(each)
            for each in (self._send(child), self._receive(child), self._watch())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, child: Child) -> None:
        try:
            await self._send_all(child)
        except Lost:
            # Whoever receives comes to the end as well, after what was still said before it.
            await asyncio.Event().wait()

    async def _send_all(self, child: Child) -> None:
        while True:
            item = await self._outbox.get()
            if isinstance(item, Cancel):
                await child.send(item)
            elif item.key in self._tickets and item.request is not None:
                item.is_sent = True
                item.queue_s = time.monotonic() - item.begin_s
                try:
                    await child.send(item.kind(item.key, item.request))
                except WireError:
                    _log.exception("a request failed before it ran")
                    self._refuse(item, failed())
                if self._num_deaths >= CAREFUL_DEATHS:
                    await item.heard.wait()
            del item

    async def _receive(self, child: Child) -> None:
        while True:
            message = await child.receive()
            self._is_heard = True
            match message:
                case Piece(key, chunk):
                    if ticket := self._tickets.get(key):
                        ticket.request = None
                        ticket.heard.set()
                        ticket.outbox.put_nowait(ticket.timed(chunk))
                case Ended(key):
                    self._answered()
                    self._finish(key, None)
                case Counted(key, count):
                    self._finish(key, count)
                case Running(key):
                    if ticket := self._tickets.get(key):
                        ticket.is_begun = True
                case Refused(key, code, text, name, retry_after_s):
                    if ticket := self._tickets.get(key):
                        error = ServeError(code, text, field=name, retry_after_s=retry_after_s)
                        self._refuse(ticket, error)
                case Beat(load, stalled_s):
                    self._load, self._stalled_s = load, stalled_s
                case _:
                    raise Lost(f"it said {type(message).__name__} in the middle")

    async def _watch(self) -> None:
        """Ticks are counted, not seconds: where this process itself stood still, few passed."""
        num_silent = 0
        self._stalled_s = 0.0
        while num_silent * _TICK_S < SILENCE_S:
            self._is_heard = False
            await asyncio.sleep(_TICK_S)
            num_silent = 0 if self._is_heard else num_silent + 1
            if self._stalled_s > self._longest_step_s:
                raise Lost(f"work, and no step for {self._stalled_s:.0f} s")
        raise Lost(f"no sign of life for {SILENCE_S:g} s")

    def _finish(self, key: int, last: TokenCount | None) -> None:
        if ticket := self._tickets.pop(key, None):
            ticket.heard.set()
            ticket.outbox.put_nowait(last)

    def _answered(self) -> None:
        self._num_deaths = 0
        self._answering.set()
        self._interrupted.clear()

    def _interrupt(self) -> str:
        """Tell whoever has to be told, put the others into the queue again, and count both."""
        was_careful = self._num_deaths >= CAREFUL_DEATHS
        self._num_deaths += 1
        self._answering.clear()
        self._interrupted.set()
        self._num_steps_before += self._load.num_steps
        free = self._info.max_running
        self._load = Load(num_running=0, num_waiting=0, num_free_slots=free, num_steps=0)
        self._outbox = asyncio.Queue()
        tickets = list(self._tickets.values())
        for ticket in tickets:
            ticket.num_tries += ticket.is_begun or (was_careful and ticket.is_sent)
            if ticket.request is None:
                self._refuse(ticket, self._unavailable())
            elif ticket.num_tries >= MAX_TRIES:
                self._refuse(ticket, ServeError(Code.INTERNAL, _DEADLY))
            else:
                ticket.is_sent = ticket.is_begun = False
                self._outbox.put_nowait(ticket)
        num_kept = len(self._tickets)
        return f"{len(tickets) - num_kept} requests told, {num_kept} kept"

    def _refuse(self, ticket: _Ticket, error: ServeError) -> None:
        del self._tickets[ticket.key]
        ticket.heard.set()
        ticket.outbox.put_nowait(error)

    def _refuse_all(self) -> None:
        self._is_closed = True
        for ticket in list(self._tickets.values()):
            self._refuse(ticket, self._unavailable())
        self._ended.set()

    def _unavailable(self) -> ServeError:
        if self._is_closed:
            return stopping()
        retry_after_s = max(RETRY_S, self._start_s)
        return ServeError(Code.UNAVAILABLE, _DEAD, retry_after_s=retry_after_s)


async def _next_item(ticket: _Ticket) -> Chunk | TokenCount | None:
    """The next that came for it, None at the end of an answer. Raises ServeError."""
    item = await ticket.outbox.get()
    if isinstance(item, ServeError):
        raise item
    return item
