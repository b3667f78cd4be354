"""What a connection over HTTP/1.1 may hold beside one whole request after the other."""

import asyncio
import json

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.doors.http.live import live, read_answer, request_head, user
from tests.scripted import ScriptedEngine
from tests.waiting import AT_MOST_S, until
from vlserve.doors.http import server

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"


def asked(text: str, *, is_stream: bool = False) -> bytes:
    body = json.dumps({"messages": [user(text)], "stream": is_stream}).encode()
    return request_head(CHAT, len(body)) + body


@pytest.mark.parametrize("ahead", [HEALTH, b"\r\n"], ids=["request", "line end"])
@pytest.mark.parametrize("is_at_once", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "control"])
async def test_a_request_sent_ahead_does_not_hide_that_the_caller_has_left(
    is_mended: bool, is_at_once: bool, ahead: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: uvicorn as it is works on for nobody. A stream would end as it writes."""
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        if not is_mended:
            monkeypatch.setattr(server, "HttpProtocol", H11Protocol)
        _, writer = await house.connect()
        writer.write(asked("hold") + ahead * is_at_once)
        await until(lambda: engine.num_steps > 3)
        writer.write(ahead)
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.1)
        assert engine.num_running == (0 if is_mended else 1)
        if is_mended:
            assert house.service.num_inside == 0


async def test_the_first_of_them_is_answered_and_the_connection_closed() -> None:
    async with live(ScriptedEngine(step_s=0.002)) as house:
        for is_stream in (False, True):
            reader, writer = await house.connect()
            writer.write(asked("one two three", is_stream=is_stream) + HEALTH)
            async with asyncio.timeout(5):
                answer = await read_answer(reader)
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await reader.read() == (b"\r\n" if is_stream else b"")
            writer.close()


async def test_what_is_sent_ahead_while_an_answer_streams_is_dropped() -> None:
    engine = ScriptedEngine(step_s=0.02)
    async with live(engine) as house:
        reader, writer = await house.connect()
        writer.write(asked("one two three four five", is_stream=True))
        await reader.readuntil(b"one ")
        writer.write(HEALTH * 20_000)  # more than a connection holds back
        async with asyncio.timeout(5):
            rest = await reader.read()
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()


async def test_a_connection_is_kept_from_answer_to_request() -> None:
    async with live() as house:
        reader, writer = await house.connect()
        async with asyncio.timeout(10):
            for i in range(200):
                writer.write(asked("hello", is_stream=i % 2 == 1))
                answer = await read_answer(reader)
                if i % 2 == 1:
                    await reader.readline()
                assert (answer.status, answer.headers.get("connection")) == (200, None)
        writer.close()


async def test_a_connection_is_kept_by_who_offers_another_protocol_with_each_request() -> None:
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    async with live() as house:
        reader, writer = await house.connect()
        for _ in range(3):
            writer.write(asked("hello").replace(b"\r\n\r\n", b"\r\n" + offer, 1))
            async with asyncio.timeout(5):
                answer = await read_answer(reader)
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        writer.close()


@pytest.mark.parametrize("offers", [b"", b"Connection: keep-alive\r\n"])
async def test_http_1_0_gets_its_stream_without_chunks(offers: bytes) -> None:
    async with live() as house:
        reader, writer = await house.connect()
        asking = asked("one two", is_stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
        writer.write(asking.replace(b"\r\n\r\n", b"\r\n" + offers + b"\r\n", 1))
        async with asyncio.timeout(5):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b" 200 " in head
        assert b"transfer-encoding" not in head.lower()
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
        writer.close()


NO_REQUESTS = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "length of letters": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: a\r\n\r\n",
    "a path beyond ASCII": b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
    "a name with a space": b"GET / HTTP/1.1\r\nHost: h\r\nA B: c\r\n\r\n",
    "chunks that are none": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    ),
    "a chunk's endless extension": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 400_000
    ),
    "endless trailers": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"a" * 400_000
    ),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
async def test_what_is_no_request_is_refused_and_the_connection_closed(name: str) -> None:
    async with live() as house:
        reader, writer = await house.connect()
        writer.write(NO_REQUESTS[name])
        async with asyncio.timeout(AT_MOST_S):
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (400, "close")
            assert answer.error["message"] == "this is not a request in HTTP/1.1"
            assert await reader.read() == b""
        writer.close()
        await until(lambda: not house.http._running)
        assert (await house.get("/health/live")).status == 200


async def test_http_2_is_refused_by_its_name() -> None:
    async with live() as house:
        answer = await house.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (505, "close")
    assert "HTTP/2 is spoken at the port of gRPC" in answer.error["message"]


async def test_a_length_beside_chunks_cannot_hide_a_second_request() -> None:
    """Either the chunks count, or it is refused: never the length."""
    hidden = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
    head = b"POST /v1/models HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    raw = head + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + hidden
    async with live() as house:
        reader, writer = await house.connect()
        writer.write(raw)
        async with asyncio.timeout(AT_MOST_S):
            answered = await reader.read()
        assert answered.count(b"HTTP/1.1 ") == 1
        writer.close()


async def test_what_a_trailer_says_is_no_header() -> None:
    body = json.dumps({"messages": [user("hello")]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    async with live() as house:
        raw = head.encode() + chunks + b"Content-Type: application/json\r\n\r\n"
        assert (await house.send(raw, within_s=AT_MOST_S)).status == 400
        told = head.replace("Host: h", "Host: h\r\nContent-Type: application/json").encode()
        assert (await house.send(told + chunks + b"\r\n")).status == 200


async def test_two_doors_do_not_share_connections() -> None:
    async with live() as one, live() as other:
        reader, writer = await one.connect()
        await until(lambda: len(one.http._state.connections) == 1)
        assert not other.http._state.connections
        await one.http.stop()
        async with asyncio.timeout(AT_MOST_S):
            assert await reader.read() == b""
        writer.close()
        assert (await other.get("/health/live")).status == 200


async def test_a_line_end_around_a_request_is_no_request() -> None:
    async with live(ScriptedEngine()) as house:
        for sent in (asked("hello") + b"\r\n", b"\r\n" + asked("hello"), b"\n" + asked("hello")):
            reader, writer = await house.connect()
            writer.write(sent)
            async with asyncio.timeout(AT_MOST_S):
                answer = await read_answer(reader)
                assert answer.status == 200
                if answer.headers.get("connection") != "close":
                    writer.write(request_head("/health/live", 0))
                    assert (await read_answer(reader)).status == 405
                else:
                    assert await reader.read() == b""
            writer.close()


async def test_a_line_end_sent_while_an_answer_is_made_does_not_close() -> None:
    engine = ScriptedEngine(step_s=0.02)
    async with live(engine) as house:
        reader, writer = await house.connect()
        for i in range(1, 3):
            writer.write(asked("one two three four five"))
            await until(lambda num=i: len(engine.seen) == num)  # type: ignore[misc]
            writer.write(b"\r\n")
            async with asyncio.timeout(AT_MOST_S):
                answer = await read_answer(reader)
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        writer.close()
