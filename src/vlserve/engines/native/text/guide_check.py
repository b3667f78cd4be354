"""Whether a grammar can be followed, found out in a process that can be killed."""

import asyncio
import json
import logging
from contextlib import suppress
from itertools import count
from typing import Final

from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.errors import failed, invalid, stopping
from vlserve.processes import Process

WORKER: Final = "vlserve.engines.native.text.guide_worker"
# Each may have a processor to itself for as long as the worker lets it.
MAX_AT_ONCE: Final = 2
# The worker answers within its own bound or not at all.
PATIENCE_S: Final = 10.0
_log = logging.getLogger(__name__)


class GuideCheck:
    """The worker: kept warm, and started again when it has died."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._first_line = _line(
            [vocabulary.definition, vocabulary.size, vocabulary.stop_token_ids]
        )
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._starting = asyncio.Lock()
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._worker: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False

    async def start(self) -> None:
        """Start the worker, where none lives, without waiting for it to be warm."""
        async with self._starting:
            if self._is_closed or (self._reader is not None and not self._reader.done()):
                return
            worker = self._worker = Process(WORKER)
            reader, self._writer = await asyncio.open_connection(sock=worker.socket)
            self._reader = asyncio.create_task(self._read(worker, reader, self._writer))
            self._writer.write(self._first_line)

    async def check(self, grammar: str) -> None:
        """Returns where a grammar can be followed. Raises ServeError: INVALID_ARGUMENT naming
        `guide` where it cannot, INTERNAL where that could not be found out, UNAVAILABLE once
        closed."""
        async with self._turns:
            await self.start()
            if self._is_closed or self._writer is None:
                raise stopping()
            number = next(self._numbers)
            answer = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                self._writer.write(_line([number, grammar]))
                async with asyncio.timeout(PATIENCE_S):
                    reason = await answer
            except TimeoutError:
                _log.exception("the guide worker does not answer: it is killed")
                await self._kill()
                raise failed() from None
            finally:
                del self._waiting[number]
        if reason:
            raise invalid("guide", reason)

    async def close(self) -> None:
        """End the worker; who still waits is told UNAVAILABLE."""
        self._is_closed = True
        async with self._starting:
            await self._kill()

    async def _kill(self) -> None:
        if self._worker is not None and self._reader is not None:
            self._worker.kill()
            await self._reader

    async def _read(
        self, worker: Process, lines: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):  # it died with a grammar unread
            async for line in lines:
                number, reason = json.loads(line)
                # Who asked may be gone.
                if (answer := self._waiting.get(number)) is not None and not answer.done():
                    answer.set_result(reason)
        writer.transport.abort()
        await asyncio.to_thread(worker.reap, None)
        if not self._is_closed:
            _log.error("the guide worker has died")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(stopping() if self._is_closed else failed())


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
