"""The one client of OpenAI's API: what it sends, and what it makes of what comes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from bench.peer_servers import openai_door as refusal
from tests.bench.servers import Script, http_server
from tests.waiting import until
from vlserve.engines.upstream.client import (
    BrokenStream,
    Refused,
    Unreachable,
    connect,
    events,
    message_of,
)

BODY = json.dumps({"messages": [], "stream": True}).encode()
NUM_CALLS = 150  # above what httpx2 does of itself at a time


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_events_are_the_same_however_their_bytes_come(end: bytes) -> None:
    wanted = ['{"a": "\u2028\x85 é😀"}', "two\nlines", "[DONE]"]
    lines = [
        b": a comment",
        b"event: message",
        *(b"data: " + wanted[0].encode(), b""),
        *(b"data:two", b"data: lines", b"", b""),
        *(b"data: [DONE]", b""),
        b"data: never ended",
    ]
    data = end.join(lines)
    for size in (1, 2, 3, 7, len(data)):
        assert [each async for each in events(pieces(data, size))] == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"error": {"message": "too many"}}', "too many"),
        (b'{"detail": "no"}', '{"detail": "no"}'),
        (b'{"error": "no"}', '{"error": "no"}'),
        (b"[]", "[]"),
        (b"\xff<html>" + b"x" * 1000, "\N{REPLACEMENT CHARACTER}<html>" + "x" * 293),
    ],
)
def test_an_error_is_said_in_the_servers_words(content: bytes, said: str) -> None:
    assert message_of(content) == said


async def test_as_many_calls_as_there_are_go_at_once() -> None:
    with http_server(Script(num_tokens=1, first_s=3.0)) as server:
        async with connect(f"{server.url}/v1") as client:

            async def ask() -> int:
                async with aclosing(client.stream("chat/completions", BODY)) as stream:
                    return len([event async for event in stream])

            asking = [asyncio.create_task(ask()) for _ in range(NUM_CALLS)]
            await until(lambda: len(server.bodies) == NUM_CALLS)
            assert not any(task.done() for task in asking)
            assert set(await asyncio.gather(*asking)) == {3}


async def test_what_fails_is_told_apart() -> None:
    with http_server(Script(refusal=refusal.Refused(429, "too many"))) as server:
        url = server.url
        async with connect(url) as client:
            with pytest.raises(Refused, match="too many") as refused:
                await anext(client.stream("v1/chat/completions", BODY))
            assert refused.value.status == 429
            assert (await client.post("v1/chat/completions", BODY)).status == 429
            assert not await client.is_ready(1.0)
    async with connect(url) as client:
        assert not await client.is_ready(1.0)
        with pytest.raises(Unreachable, match="nothing answers at that address"):
            await client.post("v1/chat/completions", BODY)


@pytest.mark.parametrize("key", ["", "secret"])
async def test_a_key_is_sent_where_there_is_one_and_bytes_as_they_are(key: str) -> None:
    head = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal head
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(ODD))
        reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Said: a\r\n"
        writer.write(reply + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connect(f"http://127.0.0.1:{port}", key=key) as client:
        reply = await client.post("/v1/chat/completions", ODD)
    assert (reply.status, reply.content, reply.is_json) == (200, ODD, True)
    assert reply.headers["x-said"] == "a"
    assert (b"authorization: bearer secret" in head.lower()) == bool(key)
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


ODD = b'{ "a" : 1.10 ,\n"b":"\\u00e9" }'


async def test_an_event_that_is_an_error_ends_the_answer() -> None:
    body = b'data: {"choices": []}\n\ndata: {"error": {"message": "broke"}}\n\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connect(f"http://127.0.0.1:{port}") as client:
        stream = client.stream("chat/completions", BODY)
        assert await anext(stream) == {"choices": []}
        with pytest.raises(BrokenStream, match=r"^broke$"):
            await anext(stream)
