"""Each option that gRPC is given has its effect: one that it does not know it takes in silence.

Times are made shorter by the names under which the doors give them.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from tests.doors.grpc.http2_frames import (
    PING,
    PREFACE,
    SETTINGS,
    accepting,
    frame,
    is_kind,
    next_frame,
    watched,
)
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine
from vlserve.doors.grpc import client, server
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

TIME, TIMEOUT = "grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms"
IDLE, STRIKES = "grpc.keepalive_permit_without_calls", "grpc.http2.max_ping_strikes"
PINGS, BACKOFF = "grpc.http2.max_pings_without_data", "grpc.max_reconnect_backoff_ms"
SHORT: Final = {TIME: 1_000, TIMEOUT: 300, BACKOFF: 200}  # no client pings more often

Options = tuple[tuple[str, int], ...]


def changed(options: Options, **values: int | None) -> Options:
    """`options` with shorter times; a value by the last part of its name, None leaves it out."""
    all_values = {name: SHORT.get(name, value) for name, value in options}
    for short, value in values.items():
        (name,) = (name for name in all_values if name.endswith(f".{short}"))
        if value is None:
            del all_values[name]
        else:
            all_values[name] = value
    return tuple(all_values.items())


def test_each_option_has_a_test() -> None:
    elsewhere = {
        "grpc.so_reuseport",  # test_a_taken_port_is_an_error
        "grpc.enable_http_proxy",  # test_a_client_asks_no_proxy
    }
    here = {TIME, TIMEOUT, IDLE, STRIKES, PINGS, BACKOFF}
    assert {name for name, _ in (*server.CHANNEL, *client.CHANNEL)} == here | elsewhere


@asynccontextmanager
async def listening(options: Options) -> AsyncIterator[tuple[Any, Any]]:
    """A server with `options` and a raw connection to it, which has said its settings."""
    made = grpc.aio.server(options=options)
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + frame(SETTINGS))
    try:
        yield reader, writer
    finally:
        writer.close()
        await made.stop(None)


@pytest.mark.parametrize("is_permitted", [True, False], ids=["as it is", "control"])
async def test_a_client_may_ping_as_often_as_it_likes(is_permitted: bool) -> None:
    options = changed(server.CHANNEL, **({} if is_permitted else {"max_ping_strikes": None}))
    num_answered = 0
    async with listening(options) as (reader, writer), asyncio.timeout(30):
        for i in range(20):
            writer.write(frame(PING, payload=i.to_bytes(8, "big")))
            found = b"?"
            while found and not is_kind(found, PING, is_ack=True):
                found = await next_frame(reader)
            if not found:
                break
            num_answered += 1
    assert (num_answered == 20) == is_permitted


async def hung_up_on_after_s(**values: int | None) -> float:
    """When a server lets go of a client that answers no ping and asks for nothing, s; 4 where it
    does not."""
    begin_s = time.monotonic()
    async with listening(changed(server.CHANNEL, **values)) as (reader, _):
        try:
            async with asyncio.timeout(4):
                while await next_frame(reader):
                    pass
        except TimeoutError:
            return 4
    return time.monotonic() - begin_s


async def test_a_dead_client_is_found_though_it_asks_for_nothing() -> None:
    found_s, *others_s = await asyncio.gather(
        hung_up_on_after_s(),
        hung_up_on_after_s(keepalive_time_ms=None),
        hung_up_on_after_s(ping_timeout_ms=None),
        hung_up_on_after_s(keepalive_permit_without_calls=None),
    )
    assert 1 < found_s < 4
    assert others_s == [4, 4, 4]


@asynccontextmanager
async def silent_server(*, answers_pings: bool) -> AsyncIterator[tuple[str, list[float]]]:
    """What takes calls and says nothing of them; and the times of the pings that came."""
    pings: list[float] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS))
        await reader.readexactly(len(PREFACE))
        while found := await next_frame(reader):
            if is_kind(found, SETTINGS):
                writer.write(frame(SETTINGS, 1))
            if is_kind(found, PING):
                pings.append(time.monotonic())
                if answers_pings:
                    writer.write(frame(PING, 1, found[9:]))

    async with accepting(converse) as address:
        yield address, pings


async def called(address: str, options: Options, within_s: float) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/a.B/C", bytes, bytes)(b"", timeout=within_s)
    code: grpc.StatusCode = failed.value.code()
    return code


async def test_our_client_finds_a_dead_server() -> None:
    async with silent_server(answers_pings=False) as (address, _):
        codes = tuple(
            await asyncio.gather(
                called(address, changed(client.CHANNEL), 5),
                called(address, changed(client.CHANNEL, keepalive_time_ms=None), 5),
                called(address, changed(client.CHANNEL, ping_timeout_ms=None), 5),
            )
        )
    late, gone = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE
    assert codes == (gone, late, late)


async def num_pings(**values: int | None) -> int:
    """How often our client looks for its server in a call of six seconds."""
    async with silent_server(answers_pings=True) as (address, pings):
        code = await called(address, changed(client.CHANNEL, **values), 6)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    return len(pings)


async def test_our_client_looks_for_the_server_for_as_long_as_a_call_takes() -> None:
    ours, few = await asyncio.gather(num_pings(), num_pings(max_pings_without_data=None))
    assert (ours > 3, few <= 3) == (True, True)


async def num_attempts(**values: int | None) -> int:
    """How often our client tries a server that is not there, in four seconds."""
    num = 0

    async def refuse(*_: object) -> None:
        nonlocal num
        num += 1

    async with (
        accepting(refuse) as address,
        grpc.aio.insecure_channel(address, options=changed(client.CHANNEL, **values)) as channel,
    ):
        end_s = time.monotonic() + 4
        while time.monotonic() < end_s:
            channel.get_state(try_to_connect=True)
            await asyncio.sleep(0.05)
    return num


async def test_our_client_soon_finds_a_server_that_is_back() -> None:
    ours, few = await asyncio.gather(num_attempts(), num_attempts(max_reconnect_backoff_ms=None))
    assert (ours > 6, few <= 6) == (True, True)


async def test_a_client_that_pings_keeps_its_connection_and_its_call() -> None:
    """Idle and through a call that takes long, at ten times the pace of real ones."""
    options = ((TIME, 1_000), (TIMEOUT, 5_000), (IDLE, 1), (PINGS, 0))
    async with (
        live(ScriptedEngine(step_s=1.0)) as house,
        watched(house.door.address) as (address, wire),
        grpc.aio.insecure_channel(address, options=options) as channel,
    ):
        chat = channel.unary_unary(
            "/vision.VisionService/Chat",
            pb.VisionRequest.SerializeToString,
            pb.VisionResponse.FromString,
        )
        assert (await chat(pb.VisionRequest(prompt="hello you"))).text == "hello you "
        await asyncio.sleep(4)
        assert (await chat(pb.VisionRequest(prompt="hello"))).text == "hello "
    assert wire.num_pings > 5
    assert (wire.num_connections, wire.goaways) == (1, [])


async def test_messages_are_bound_by_the_setting_and_not_by_the_librarys_own() -> None:
    """4 MiB in both directions."""
    text = "x" * (6 << 20)
    async with live() as house:
        assert (await house.client.chat(pb.VisionRequest(prompt=text))).text == text + " "
        async with GrpcClient(house.door.address, 1) as small:
            with pytest.raises(grpc.aio.AioRpcError, match="Sent message larger than max"):
                await small.chat(pb.VisionRequest(prompt=text))
            with pytest.raises(grpc.aio.AioRpcError, match="Received message larger than max"):
                await small.chat(pb.VisionRequest(prompt="x" * 900_000, sampling=pb.Sampling(n=2)))
