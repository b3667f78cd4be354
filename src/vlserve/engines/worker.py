"""An engine's own process: python -m vlserve.engines.worker, started by the supervisor.

It holds one engine, of the kind that its second argument names, and answers over the socket whose
descriptor is its first. It ends when that socket closes, whatever it does just then.
"""

import asyncio
import contextlib
import gc
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

from vlserve import logs
from vlserve.engines.base import Begun, Engine
from vlserve.engines.catalog import import_engine, make_engine
from vlserve.engines.wire import (
    Beat,
    Cancel,
    Channel,
    Count,
    Counted,
    Ended,
    Failed,
    FromWorker,
    Piece,
    Refused,
    Running,
    Start,
    Started,
    Submit,
    ToWorker,
)
from vlserve.errors import FAILED, Code, ServeError
from vlserve.models.errors import ModelError
from vlserve.processes import connect_to_front
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Request

BEAT_S: Final = 0.25
_MAX_BYTES: Final = 2**31  # of a request's text: the service has bounded it
_END_S: Final = 1.0  # in which an engine that answers UNAVAILABLE says that it has ended
_log = logging.getLogger(__name__)


class Worker:
    """Answers what comes over the channel until it closes or the engine ends."""

    def __init__(self, engine: Engine, channel: Channel[ToWorker]) -> None:
        self._engine = engine
        self._channel = channel
        self._outbox: asyncio.Queue[FromWorker] = asyncio.Queue()
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._num_steps = 0
        self._stepped_s = asyncio.get_running_loop().time()

    async def run(self) -> int:
        """The exit status: 0 where the front closed the channel, 1 where the engine ended."""
        self._ended = asyncio.create_task(self._engine.ended())
        receiving = asyncio.create_task(self._receive())
        others = [asyncio.create_task(self._send()), asyncio.create_task(self._beat())]
        done, _ = await asyncio.wait(
            [receiving, self._ended, *others], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            with contextlib.suppress(EOFError):
                task.result()
        if self._ended in done:
            return 1
        await self._engine.close()
        return 0

    async def _receive(self) -> None:
        while True:
            message = await self._channel.receive()
            match message:
                case Submit(key, request):
                    self._begin(key, self._answer(key, request))
                    # Nothing here keeps the pictures while the next message is waited for.
                    del request
                case Count(key, request):
                    self._begin(key, self._count(key, request))
                    del request
                case Cancel(key) if key in self._answers:
                    self._answers[key].cancel()
            del message

    def _begin(self, key: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._answers[key] = asyncio.create_task(work)
        task.add_done_callback(partial(self._forget, key))

    async def _answer(self, key: int, request: Request) -> None:
        async with self._report_errors(key):
            chunks = self._engine.generate(request)
            del request
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._outbox.put_nowait(
                        Running(key) if isinstance(chunk, Begun) else Piece(key, chunk)
                    )
            self._outbox.put_nowait(Ended(key))

    async def _count(self, key: int, request: Request) -> None:
        async with self._report_errors(key):
            self._outbox.put_nowait(Counted(key, await self._engine.count(request)))

    @asynccontextmanager
    async def _report_errors(self, key: int) -> AsyncIterator[None]:
        try:
            yield
        except ServeError as error:
            if error.code is Code.UNAVAILABLE and await self._has_ended():
                return  # The front sees it, and knows whom to tell and whom to keep.
            parts = (error.code, error.message, error.field, error.retry_after_s)
            self._outbox.put_nowait(Refused(key, *parts))
        except Exception:
            _log.exception("a request failed")
            self._outbox.put_nowait(
                Refused(key, Code.INTERNAL, FAILED, field=None, retry_after_s=None)
            )

    def _forget(self, key: int, task: asyncio.Task[None]) -> None:
        del self._answers[key]

    async def _has_ended(self) -> bool:
        await asyncio.wait([self._ended], timeout=_END_S)
        return self._ended.done()

    async def _send(self) -> None:
        """All there is at a time: a step makes a piece for everyone who runs."""
        while True:
            messages = [await self._outbox.get()]
            while not self._outbox.empty():
                messages.append(self._outbox.get_nowait())
            await self._channel.send(*messages, self._beat_now())

    async def _beat(self) -> None:
        while True:
            self._outbox.put_nowait(self._beat_now())
            await asyncio.sleep(BEAT_S)

    def _beat_now(self) -> Beat:
        load, now = self._engine.load(), asyncio.get_running_loop().time()
        if load.num_steps != self._num_steps or not load.num_running + load.num_waiting:
            self._num_steps, self._stepped_s = load.num_steps, now
        return Beat(load, now - self._stepped_s)


async def work(connection: socket.socket) -> int:
    """Start the engine that the first message names, answer, and return the exit status."""
    channel: Channel[ToWorker] = Channel(connection, ToWorker, _MAX_BYTES)
    start = await channel.receive()
    assert isinstance(start, Start)  # noqa: S101  the front's own first word
    try:
        engine = make_engine(
            ModelSettings.model_validate_json(start.model),
            EngineSettings.model_validate_json(start.engine),
        )
        await engine.start()
    except (ModelError, OSError) as error:
        kind = ModelError if isinstance(error, ModelError) else OSError
        await channel.send(Failed(kind.__name__, str(error)))
        return 1
    except Exception:
        _log.exception("the engine did not start")
        await channel.send(Failed("", "the engine did not start: the log says why"))
        return 1
    await channel.send(Started(engine.info))
    return await Worker(engine, channel).run()


def main() -> None:
    """Work until the front ends it."""
    connection = connect_to_front()
    logs.to_stderr()
    threading.Thread(target=_end_with_the_front, args=(connection,), daemon=True).start()
    _import(sys.argv[2])
    try:
        status = asyncio.run(work(connection))
    except EOFError:
        status = 0
    sys.stderr.flush()
    # Not by the way of sys.exit, which waits for threads that nobody needs any more.
    os._exit(status)


def _import(kind: str) -> None:
    """Import what an engine takes while the front is still busy with itself.

    No garbage is looked for meanwhile, nor ever in what was imported: a fifth of the time.
    """
    gc.disable()
    import_engine(kind)
    gc.freeze()
    gc.enable()


def _end_with_the_front(connection: socket.socket) -> None:
    """In a thread, since the loop is blocked while an engine is imported."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP comes unasked, once the other end is closed
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
