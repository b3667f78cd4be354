"""Requests that are sent ahead over HTTP/1.1."""

import asyncio
import json

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.doors.http.live import live, read_answer, request_head, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
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
