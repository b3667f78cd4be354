"""What bodies may hold and take, each and all together; with each guard off its test fails."""

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.serving import Served, serving
from tests.doors.http.live import (
    House,
    data_url,
    live,
    read_answer,
    request_head,
    text_part,
    user,
)
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.http.json_cost import JsonCost
from vlserve.service.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
MIB = 1 << 20
NUM_SENDERS = 12
SENT_MIB = 24


def memory_mib(pid: int) -> int:
    """What a process holds of the machine's memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


async def sent_but_for_the_end(server: Served) -> tuple[asyncio.StreamWriter, int | None]:
    """A connection over which nearly all of a body was sent, and how that was answered."""
    host, port = server.http.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_head(CHAT, SENT_MIB * MIB))
    answering = asyncio.create_task(read_answer(reader))
    piece = b'{"messages": "' + b"x" * (MIB - 14)
    for _ in range(SENT_MIB - 1):
        writer.write(piece)
        with suppress(ConnectionError):
            await writer.drain()
    done, _ = await asyncio.wait([answering], timeout=3.0)
    if not done:
        answering.cancel()
        return writer, None
    answer = answering.result()
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.error["message"].startswith("the messages of all requests hold too much")
    return writer, answer.status


@pytest.mark.parametrize("is_bounded", [True, False], ids=["bounded", "control"])
async def test_all_bodies_together_are_bounded(is_bounded: bool) -> None:
    bound_mib = 2 * SENT_MIB if is_bounded else 1024
    flags = (f"--limits.max-message-mib={SENT_MIB}", f"--limits.max-bodies-mib={bound_mib}")
    async with serving("--engine.kind=echo", *flags) as server:
        before = memory_mib(server.pid)
        sending = [asyncio.create_task(sent_but_for_the_end(server)) for _ in range(NUM_SENDERS)]
        sent = await asyncio.gather(*sending)
        grown = memory_mib(server.pid) - before
        statuses = [status for _, status in sent]
        for writer, _ in sent:
            writer.close()
    num_refused = statuses.count(429)
    print(f"{NUM_SENDERS} senders of {SENT_MIB} MiB: {num_refused} refused, {grown} MiB more")
    assert set(statuses) <= {429, None}
    if is_bounded:
        assert num_refused >= NUM_SENDERS - 3
        assert grown < bound_mib * 1.25 + 32
    else:
        assert num_refused == 0
        assert grown > NUM_SENDERS * SENT_MIB * 3 // 4


async def test_what_a_body_held_is_free_when_it_is_answered_refused_or_given_up() -> None:
    async with live(max_message_mib=2, max_bodies_mib=2) as house:
        half = json.dumps({"messages": [user("x" * MIB)]}).encode()
        for _ in range(4):
            assert (await house.post(CHAT, half)).status == 200
            assert (await house.post(CHAT, half[:-1])).status == 400
            _, writer = await house.connect()
            writer.write(request_head(CHAT, len(half)) + half[:-1])
            await until(lambda: house.service._bodies.num_left < 2 * MIB)
            refused = await house.post(CHAT, half)
            assert (refused.status, refused.headers["connection"]) == (429, "close")
            writer.close()
            await until(lambda: house.service._bodies.num_left == 2 * MIB)


async def test_messages_over_grpc_count_as_well() -> None:
    engine = ScriptedEngine(num_slots=4)
    async with live(engine, max_message_mib=2, max_bodies_mib=2) as house:
        _, writer = await house.connect()
        message = user(text_part("x" * MIB), text_part("hold"))
        body = json.dumps({"messages": [message]}).encode()
        writer.write(request_head(CHAT, len(body)) + body)
        await until(lambda: engine.num_running == 1)
        async with house.grpc_client() as client:
            assert (await client.chat(pb.VisionRequest(prompt="hello"))).text == "hello "
            call = client.chat(pb.VisionRequest(prompt="x" * MIB))
            assert (await call.code()).name == "RESOURCE_EXHAUSTED"
            assert (await call.details()).startswith("the messages of all requests hold too much")
        writer.close()


async def full(house: House[Any]) -> asyncio.StreamWriter:
    """Whose call takes the one place of the hall."""
    _, writer = await house.connect()
    body = json.dumps({"messages": [user("hold")]}).encode()
    writer.write(request_head(CHAT, len(body)) + body)
    await until(lambda: house.service.num_inside == 1)
    return writer


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "control"])
async def test_a_full_hall_reads_no_large_body(
    monkeypatch: pytest.MonkeyPatch, is_guarded: bool
) -> None:
    if not is_guarded:
        monkeypatch.setattr(Service, "expect", lambda _: None)
    async with live(ScriptedEngine(num_slots=1), max_waiting=0) as house:
        holding = await full(house)
        for path in (CHAT, "/v1/responses", "/process_image", "/process_images"):
            reader, writer = await house.connect()
            writer.write(request_head(path, 10 * MIB))  # not one byte of it sent
            answering = asyncio.create_task(read_answer(reader))
            await asyncio.wait([answering], timeout=5 if is_guarded else 0.3)
            assert answering.done() is is_guarded, path
            answering.cancel()
            if is_guarded:
                answer = answering.result()
                assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
                assert int(answer.headers["retry-after"]) >= 1
            writer.close()
        small = await house.post(CHAT, {"messages": [user("hello")]})
        assert (small.status, small.headers.get("connection")) == (429, None)
        upload = await house.send(request_head("/v1/files", 10 * MIB) + b"x" * 10 * MIB)
        assert upload.status == 400  # read, though the hall is full: it asks for no place
        holding.close()


COSTLY = {
    "values": '{"messages": [' + '{"a":{}},' * (MIB // 2) + "{}]}",
    "levels": '{"messages": [' + "[[[[[[[]]]]]]]," * (MIB // 4) + "[]]}",
    "escapes": '{"messages": "' + "\\n" * (5 * MIB) + '"}',
    "other characters": '{"messages": "' + "ä" * (8 * MIB) + '"}',
}


async def longest_hold_s(body: bytes, house: House[Any]) -> tuple[float, str]:
    """For how long nobody else is served beside a body, and how it is answered."""
    loop = asyncio.get_running_loop()
    raw = request_head(CHAT, len(body)) + body
    asking = asyncio.create_task(house.send(raw, within_s=30))
    longest_s, last_s = 0.0, loop.time()
    while not asking.done():
        await asyncio.sleep(0.001)
        longest_s, last_s = max(longest_s, loop.time() - last_s), loop.time()
    return longest_s, asking.result().error["message"]


@pytest.mark.parametrize("name", COSTLY)
async def test_what_takes_long_to_read_is_not_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = COSTLY[name].encode()
    async with live() as house:
        guarded_s, message = await longest_hold_s(body, house)
        assert re.fullmatch(r"the body holds more than \d+ [\w ]+", message)
        monkeypatch.setattr(JsonCost, "add", lambda *_: None)
        control_s, message = await longest_hold_s(body, house)
        assert message.startswith("messages")
    print(f"{name}: {guarded_s * 1000:.0f} ms, control {control_s * 1000:.0f} ms")
    assert guarded_s < 0.5
    if name in ("values", "levels"):
        assert control_s > 4 * guarded_s


async def test_a_large_picture_is_read_at_once() -> None:
    """What comes of it in all is measured by `bench.bodies`."""
    data = b"\xff" * (12 * MIB)
    part = {"type": "image_url", "image_url": {"url": data_url(data)}}
    body = json.dumps({"messages": [user(part)]}).encode()
    async with live() as house:
        holds = [await longest_hold_s(body, house) for _ in range(3)]
    refused = "messages[0].content[0].image_url.url: is not a picture"
    assert all(message.startswith(refused) for _, message in holds)
    hold_s = min(hold_s for hold_s, _ in holds)
    print(f"{len(body) // MIB} MiB: {hold_s * 1000:.0f} ms")
    assert hold_s < 0.3


async def test_large_bodies_are_refused_as_small_ones_are() -> None:
    """But for what names the field of half a character."""
    filler = "x" * (2 * MIB)
    bodies = {
        '{"messages": [{"role": "user", "content": "%s"}], "n": NaN}': "n",
        '{"messages": "%s"}': "messages",
        '{"messages": [], "%s": 1, "n": 1, "n": 2}': None,
        '{"messages": [{"role": "user", "content": "%s\\ud800"}]}': None,
        '{"messages": [{"role": "user", "content": "%s"}]': None,
    }
    async with live() as house:
        for body, param in bodies.items():
            answer = await house.post(CHAT, (body % filler).encode())
            assert answer.status == 400
            if param is not None:
                assert answer.error["param"] == param, body
