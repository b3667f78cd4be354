"""A relay in front of a server that reads along what the server says to somebody's client.

So what a client says of its answers can be held against what was sent, and neither the client nor
the server is any other than it is.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_PIECE = 65536
_EVENT = b"data: {"
_REFUSAL = re.compile(rb"^HTTP/1\.1 [45]\d\d", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answered:
    """A streamed answer and its usage, in tokens; those of pictures are part of the prompt."""

    text: str
    num_prompt: int
    num_images: int
    num_tokens: int


@dataclass(slots=True)
class Witness:
    """Where the relay listens, and the bytes of the server, a list for each connection."""

    address: str
    said: list[list[bytes]] = field(default_factory=list)

    def answers(self) -> list[Answered]:
        """The answers of one choice that came with their usage, chat completions and responses."""
        return list(self._answers())

    def num_refused(self) -> int:
        """Answers with a status of 400 or more, and events of an error in a stream."""
        statuses = sum(len(_REFUSAL.findall(b"".join(pieces))) for pieces in self.said)
        return statuses + sum("error" in event for event in self._events())

    def _answers(self) -> Iterator[Answered]:
        text = ""
        for event in self._events():
            for choice in event.get("choices", ()):
                text += choice["delta"].get("content", "")
            if event.get("type") == "response.output_text.delta":
                text += event["delta"]
            usage = event.get("usage") or (event.get("response") or {}).get("usage")
            if not usage:
                continue
            is_chat = "prompt_tokens" in usage
            asked, answered = ("prompt", "completion") if is_chat else ("input", "output")
            num_images = usage[f"{asked}_tokens_details"]["image_tokens"]
            yield Answered(text, usage[f"{asked}_tokens"], num_images, usage[f"{answered}_tokens"])
            text = ""

    def _events(self) -> Iterator[dict[str, Any]]:
        for pieces in self.said:
            for line in b"".join(pieces).splitlines():
                if line.startswith(_EVENT):
                    yield json.loads(line.removeprefix(b"data: "))


@asynccontextmanager
async def witness(server: str) -> AsyncIterator[Witness]:
    """A relay to a server's `host:port`, on a free port of loopback while the context lasts."""
    host, _, port = server.rpartition(":")
    seen = Witness("")

    async def relay(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        pieces: list[bytes] = []
        seen.said.append(pieces)
        reader, writer = await asyncio.open_connection(host, int(port))
        ways = [_copy(client, writer), _copy(reader, back, pieces)]
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            writer.close()
            back.close()

    def accept(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(relay(client, back))
        relays.add(task)
        task.add_done_callback(relays.discard)

    relays: set[asyncio.Task[None]] = set()
    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listening:
        seen.address = ":".join(map(str, listening.sockets[0].getsockname()))
        yield seen
    for task in tuple(relays):
        task.cancel()
    await asyncio.gather(*relays, return_exceptions=True)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes] | None = None
) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            if seen is not None:
                seen.append(data)
            writer.write(data)
            await writer.drain()
