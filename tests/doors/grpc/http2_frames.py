"""HTTP/2 by its frames, as far as pings are concerned, and a wire on which they are counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
_HEAD = 9


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame of stream 0."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


async def next_frame(reader: asyncio.StreamReader) -> bytes:
    """A whole frame; nothing at the end."""
    try:
        head = await reader.readexactly(_HEAD)
        return head + await reader.readexactly(int.from_bytes(head[:3], "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def is_kind(found: bytes, kind: int, *, is_ack: bool = False) -> bool:
    """Whether it is a frame of that kind, and answers another one or does not."""
    return len(found) >= _HEAD and found[3] == kind and bool(found[4] & ACK) == is_ack


Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def accepting(converse: Converse) -> AsyncIterator[str]:
    """A port at which a connection lasts as long as `converse` does, the context at most."""
    tasks: set[asyncio.Task[None]] = set()

    async def last(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(reader, writer)
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(last(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        left = [*tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@dataclass
class Wire:
    """What went over the connections between a client and a server."""

    num_connections: int = 0
    num_pings: int = 0  # that the client sent, its answers to pings left out
    goaways: list[bytes] = field(default_factory=list)

    def sent(self, found: bytes) -> None:
        self.num_pings += is_kind(found, PING)

    def received(self, found: bytes) -> None:
        if is_kind(found, GOAWAY):
            self.goaways.append(found[_HEAD + 8 :])


@asynccontextmanager
async def watched(address: str) -> AsyncIterator[tuple[str, Wire]]:
    """A port that passes everything on to the server at `address` and back."""
    host, port = address.rsplit(":", 1)
    wire = Wire()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.num_connections += 1
        theirs, to_server = await asyncio.open_connection(host, int(port))
        try:
            to_server.write(await reader.readexactly(len(PREFACE)))
            async with asyncio.TaskGroup() as both:
                both.create_task(_passed_on(reader, to_server, wire.sent))
                both.create_task(_passed_on(theirs, writer, wire.received))
        finally:
            to_server.close()

    async with accepting(converse) as ours:
        yield ours, wire


async def _passed_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: Callable[[bytes], None]
) -> None:
    while found := await next_frame(source):
        seen(found)
        target.write(found)
    target.close()
