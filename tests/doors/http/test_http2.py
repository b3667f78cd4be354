"""HTTP/2 without TLS, as clients speak it that know beforehand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.connection
import h2.events
import h2.exceptions
import pytest
from hypercorn import protocol
from hypercorn.protocol.h2 import H2Protocol

from tests.doors.http.live import House, live, user
from tests.scripted import MODEL, ScriptedEngine
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.wire = h2.connection.H2Connection()
        self.wire.initiate_connection()

    def flush(self) -> None:
        self._writer.write(self.wire.data_to_send())

    def begin(self, path: str, method: str = "POST", *, ends: bool = False) -> int:
        stream: int = self.wire.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "h")]
        headers = [*pseudo, ("content-type", "application/json")]
        self.wire.send_headers(stream, headers, end_stream=ends)
        self.flush()
        return stream

    async def answer(self, stream: int) -> tuple[int, bytes]:
        """Status and body, when the server has ended the stream."""
        status, body = 0, b""
        while True:
            data = await self._reader.read(1 << 16)
            assert data, "the connection was closed"
            for event in self.wire.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    status = int(dict(event.headers)[b":status"])
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    body += event.data
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    return status, body
            self.flush()


@asynccontextmanager
async def calling(house: House[Any]) -> AsyncIterator[Caller]:
    reader, writer = await house.connect()
    try:
        async with asyncio.timeout(10):
            yield Caller(reader, writer)
    finally:
        writer.close()


async def test_a_call() -> None:
    async with live() as house, calling(house) as caller:
        stream = caller.begin(CHAT)
        body = {"model": MODEL, "messages": [user("hello you")]}
        caller.wire.send_data(stream, json.dumps(body).encode(), end_stream=True)
        caller.flush()
        status, answer = await caller.answer(stream)
        assert status == 200
        assert json.loads(answer)["choices"][0]["message"]["content"] == "hello you "
        status, _ = await caller.answer(caller.begin("/health/live", "GET", ends=True))
        assert status == 200


async def test_a_body_above_the_bound_is_refused() -> None:
    async with live(max_message_mib=1) as house, calling(house) as caller:
        stream = caller.begin(CHAT)
        answering = asyncio.create_task(caller.answer(stream))
        num_sent = 0
        while not answering.done() and num_sent < 1 << 21:
            room = min(caller.wire.local_flow_control_window(stream), 1 << 14)
            if room:
                caller.wire.send_data(stream, b"x" * room)
                num_sent += room
                caller.flush()
            await asyncio.sleep(0)
        caller.wire.end_stream(stream)
        caller.flush()
        status, body = await answering
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_entity_too_large")
        assert (await house.get("/health/live")).status == 200


async def test_a_reset_ends_the_work() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house, calling(house) as caller:
        stream = caller.begin(CHAT)
        body = json.dumps({"messages": [user("hold")], "stream": True}).encode()
        caller.wire.send_data(stream, body, end_stream=True)
        caller.flush()
        await until(lambda: engine.num_steps > 3)
        caller.wire.reset_stream(stream)
        caller.flush()
        await until(lambda: engine.num_running == 0)
        assert house.service.num_inside == 0


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "control"])
async def test_a_connection_that_ends_leaves_nothing_behind(
    is_mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: hypercorn as it is keeps a task for each."""
    engine = ScriptedEngine(step_s=0.002)
    async with live(engine) as house:
        if not is_mended:
            monkeypatch.setattr(protocol, "H2Protocol", H2Protocol)
        for words in ("hold", "hello you", ""):  # the last is refused
            for is_stream in (False, True):
                async with calling(house) as caller:
                    stream = caller.begin(CHAT)
                    body = json.dumps({"messages": [user(words)], "stream": is_stream}).encode()
                    caller.wire.send_data(stream, body, end_stream=True)
                    caller.flush()
                    await until(lambda: bool(house.http._running))
        await until(lambda: house.service.num_inside == 0)
        await asyncio.sleep(0.2)
        num_left = len(house.http._running)
        print(f"left behind: {num_left}")
        assert bool(num_left) is not is_mended


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "control"])
async def test_who_sends_on_beyond_twice_the_bound_harms_nobody_else_on_the_connection(
    is_mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: hypercorn as it is ends the connection, and every call on it."""
    async with live(max_message_mib=1) as house:
        if not is_mended:
            monkeypatch.setattr(protocol, "H2Protocol", H2Protocol)
        async with calling(house) as caller:
            await caller.answer(caller.begin("/health/live", "GET", ends=True))
            endless = caller.begin(CHAT)
            answering = asyncio.create_task(caller.answer(endless))
            num_sent = 0
            while num_sent < 4 << 20 and (not answering.done() or num_sent < 3 << 20):
                try:
                    room = min(caller.wire.local_flow_control_window(endless), 1 << 14)
                    caller.wire.send_data(endless, b"x" * room)
                except h2.exceptions.StreamClosedError:  # told to stop
                    break
                num_sent += room
                caller.flush()
                await asyncio.sleep(0)
                if answering.done() and not room:
                    break
            status, body = await answering
            assert (status, json.loads(body)["error"]["code"]) == (413, "request_entity_too_large")
            another = caller.answer(caller.begin("/health/live", "GET", ends=True))
            if is_mended:
                assert (await another)[0] == 200
            else:
                with pytest.raises(AssertionError, match="the connection was closed"):
                    await another


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "control"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/\xff"), ("G\xc3T", "/health/live")])
async def test_a_request_that_is_none_harms_nobody_else_on_the_connection(
    method: str, path: str, is_mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: hypercorn as it is ends the connection, and every call on it."""
    async with live() as house:
        if not is_mended:
            monkeypatch.setattr(protocol, "H2Protocol", H2Protocol)
        async with calling(house) as caller:
            caller.begin(path, method, ends=True)
            caller.begin(path, method)
            another = caller.answer(caller.begin("/health/live", "GET", ends=True))
            if is_mended:
                assert (await another)[0] == 200
            else:
                with pytest.raises(AssertionError, match="the connection was closed"):
                    await another
