"""Callers of a door: each asks, waits for the whole answer, and asks again."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11

from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

PROMPT: Final = "one two three four five six seven eight"
NUM_PIECES: Final = 10  # of the echo engine's answer: the words of the prompt, and two before them
_HOST: Final = "127.0.0.1"
_MESSAGE_MIB: Final = 64
_READ_BYTES: Final = 2**16

Ask = Callable[[], Awaitable[None]]
# A caller of the server at a port of this machine, connected while its context lasts.
Caller = Callable[[int], AbstractAsyncContextManager[Ask]]


@dataclass(frozen=True, slots=True)
class Load:
    """What `measured` found: the time of each answer, and of all together, s."""

    times_s: list[float]
    wall_s: float


async def measured(caller: Caller, port: int, num_clients: int, num_requests: int) -> Load:
    """So many requests of so many callers at once; each has asked once before."""
    async with AsyncExitStack() as closing:
        asks = [await closing.enter_async_context(caller(port)) for _ in range(num_clients)]
        await asyncio.gather(*(ask() for ask in asks))
        left = iter(range(num_requests))
        times_s: list[float] = []

        async def keep_asking(ask: Ask) -> None:
            for _ in left:
                begin_s = time.perf_counter()
                await ask()
                times_s.append(time.perf_counter() - begin_s)

        begin_s = time.perf_counter()
        await asyncio.gather(*map(keep_asking, asks))
        return Load(times_s, time.perf_counter() - begin_s)


def grpc_caller(*, is_stream: bool, picture: bytes = b"") -> Caller:
    """Over gRPC, the picture as bytes."""
    wire = pb.VisionRequest(prompt=PROMPT, image=picture)

    @asynccontextmanager
    async def caller(port: int) -> AsyncIterator[Ask]:
        async with GrpcClient(f"{_HOST}:{port}", _MESSAGE_MIB) as client:

            async def unary() -> None:
                assert (await client.chat(wire)).text  # noqa: S101  what is measured is an answer

            async def stream() -> None:
                pieces = [piece async for piece in client.chat_stream(wire)]
                assert pieces[-1].finish_reason  # noqa: S101

            yield stream if is_stream else unary

    return caller


def http_caller(*, is_stream: bool, picture: bytes = b"") -> Caller:
    """Over HTTP/1.1 and kept connections, the picture in base64 in the JSON."""
    content: list[dict[str, object]] = [{"type": "text", "text": PROMPT}]
    if picture:
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    message = {"role": "user", "content": content}
    body = json.dumps({"model": "echo", "messages": [message], "stream": is_stream}).encode()

    @asynccontextmanager
    async def caller(port: int) -> AsyncIterator[Ask]:
        reader, writer = await asyncio.open_connection(_HOST, port)
        protocol = h11.Connection(h11.CLIENT)
        head = h11.Request(
            method="POST",
            target="/v1/chat/completions",
            headers=[
                ("host", f"{_HOST}:{port}"),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
            ],
        )

        async def ask() -> None:
            for part in (head, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(protocol.send(part) or b"")
            await writer.drain()
            while not isinstance(event := protocol.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    protocol.receive_data(await reader.read(_READ_BYTES))
                elif isinstance(event, h11.Response) and event.status_code != 200:
                    raise RuntimeError(f"the server answered {event.status_code}")
            protocol.start_next_cycle()

        try:
            yield ask
        finally:
            writer.close()
            await writer.wait_closed()

    return caller
