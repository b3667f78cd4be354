"""Servers that answer as a test scripts them."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.peer_servers.openai_door import Asked, Done, Inbox, Refused, door
from vlserve.bench.targets import AskFailed
from vlserve.types import ChatRequest, Chunk, FinishReason, Usage


@dataclass
class ScriptedTarget:
    """Answers with `num_tokens` pieces, the first after `first_s`, then one each `step_s`; with a
    `gate`, only when it is released."""

    num_tokens: int = 3
    first_s: float = 0.0
    step_s: float = 0.0
    fails: dict[int, AskFailed] = field(default_factory=dict)
    counts: bool = True
    gate: asyncio.Semaphore | None = None
    asked: list[ChatRequest] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    num_running: int = 0

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        index = len(self.asked)
        self.asked.append(request)
        self.begun_s.append(asyncio.get_running_loop().time())
        self.num_running += 1
        try:
            if self.gate is not None:
                await self.gate.acquire()
            await asyncio.sleep(self.first_s)
            if index in self.fails:
                raise self.fails[index]
            for number in range(self.num_tokens):
                await asyncio.sleep(self.step_s if number else 0)
                yield Chunk("a ")
            usage = Usage(10, 0, self.num_tokens) if self.counts else None
            yield Chunk("", (), FinishReason.LENGTH, usage)
        finally:
            self.num_running -= 1

    def release(self, number: int) -> None:
        """Let so many go on."""
        assert self.gate is not None
        for _ in range(number):
            self.gate.release()


@dataclass(frozen=True)
class Script:
    """How the HTTP server answers: delays, and instead of the last token a refusal."""

    num_tokens: int = 3
    first_s: float = 0.0
    step_s: float = 0.0
    refusal: Refused | None = None
    after: int = 0  # tokens before the refusal


@dataclass(frozen=True)
class HttpServer:
    url: str
    bodies: list[dict[str, Any]]


@contextmanager
def http_server(script: Script) -> Iterator[HttpServer]:
    """An OpenAI door on a free loopback port, a thread for each answer."""
    inbox: Inbox = queue.SimpleQueue()
    bodies: list[dict[str, Any]] = []

    def take() -> None:
        while (asked := inbox.get()).body:
            bodies.append(asked.body)
            threading.Thread(target=_answer, args=(script, asked), daemon=True).start()

    taking = threading.Thread(target=take)
    taking.start()
    with door(inbox) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield HttpServer(f"http://127.0.0.1:{server.server_port}", bodies)
        finally:
            server.shutdown()
            serving.join()
            inbox.put(Asked({}))
            taking.join()


def _answer(script: Script, asked: Asked) -> None:
    time.sleep(script.first_s)
    count = script.after if script.refusal else script.num_tokens
    for number in range(count):
        time.sleep(script.step_s if number else 0)
        asked.outbox.put("a ")
    asked.outbox.put(script.refusal or Done(10, count))
