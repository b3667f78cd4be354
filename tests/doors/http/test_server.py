"""What the HTTP door itself holds to, over sockets of our own."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from tests.doors.http.live import House, live, read_answer, request_head, served, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.http import protocol
from vlserve.doors.http import streaming as answers
from vlserve.doors.http.server import HttpDoor
from vlserve.errors import FAILED
from vlserve.settings import HttpSettings, LimitSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
MIB = 1 << 20
HOLD = {"messages": [user("hold")]}


async def test_health_follows_what_is_announced() -> None:
    async with served(ScriptedEngine(), is_open=False) as house:
        assert (await house.get("/health/live")).status == 200
        unready = await house.get("/health/ready")
        assert (unready.status, unready.error["type"]) == (503, "unavailable_error")
        assert int(unready.headers["retry-after"]) >= 1
        starting = await house.post(CHAT, HOLD)
        assert starting.status == 503
        assert starting.error["message"] == "the server is starting: ask again when it is ready"
        assert (await house.get("/v1/models")).status == 503
        await house.http.announce(is_serving=True)
        assert (await house.get("/health/ready")).json == {"status": "ready"}
        assert (await house.get("/health")).json == {"status": "ready"}
        await house.http.announce(is_serving=False)
        for path in ("/health/ready", "/health"):
            assert (await house.get(path)).status == 503


async def test_a_taken_port_is_an_error() -> None:
    async with live() as house:
        port = int(house.http.address.rsplit(":", 1)[1])
        second = HttpDoor(house.service, [], LimitSettings(), HttpSettings(port=port))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await second.start()
        await second.stop()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1/chat/other/", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not_found"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, code: str) -> None:
    async with live() as house:
        answer = await house.get(path, method)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert set(answer.error) == {"message", "type", "param", "code", "request_id"}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (CHAT, "POST"),
        ("/v1/files/a", "DELETE, GET, HEAD"),
        ("/v1/models/a", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_what_a_path_has_instead_is_told(path: str, allowed: str) -> None:
    async with live() as house:
        answer = await house.get(path, "PUT")
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"null", None),
    (b'"text"', None),
    (b"\xff\xfe", None),
    (b"[" * 200_000, None),
    (b'{"a":' * 5_000, None),
    (b'{"messages": "hello"}', "messages"),
    (b'{"messages": []}', "messages"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
    (b'{"messages": [{"role": "user", "content": "a"}], "n": NaN}', "n"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "temperature"),
    (
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1' + b"0" * 400 + b"}",
        "temperature",
    ),
    (b'{"messages": [{"role": "user", "content": "a"}], "seed": 1' + b"0" * 5000 + b"}", None),
    (b'{"messages": [{"role": "user", "content": "a"}], "seed": 1' + b"0" * 50 + b"}", "seed"),
    (
        b'{"messages": [{"role": "user", "content": "a"}], "top_k": 1' + b"0" * 50 + b"}",
        "top_k",
    ),
    (
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -1' + b"0" * 50 + b"}",
        "max_tokens",
    ),
    (json.dumps({f"k{i}": 1 for i in range(200_000)}).encode(), None),
    (json.dumps({"messages": [{}] * 100_000}).encode(), "messages[0].role"),
    (json.dumps({"messages": [], "modalities": [1] * 260_000}).encode(), "modalities[0]"),
    (json.dumps({"messages": [], "stop_token_ids": ["a"] * 260_000}).encode(), "stop_token_ids[0]"),
    (
        json.dumps(
            {"messages": [user("a")], "logit_bias": {str(i): "x" for i in range(100_000)}}
        ).encode(),
        "logit_bias",
    ),
]


async def test_bodies_that_are_no_request() -> None:
    async with live() as house:
        for body, param in BAD_BODIES:
            begin_s = time.monotonic()
            answer = await house.post(CHAT, body)
            assert answer.status == 400, (body[:80], answer)
            assert answer.error["param"] == param, (body[:80], answer.error)
            assert answer.error["type"] == "invalid_request_error"
            assert time.monotonic() - begin_s < 1.0, body[:80]
        as_form = await house.post(CHAT, HOLD, "application/x-www-form-urlencoded")
        assert as_form.status == 400
        assert "application/json" in as_form.error["message"]
        assert not house.engine.seen
    print(f"tried {len(BAD_BODIES) + 1}, held {len(BAD_BODIES) + 1}")


async def test_a_body_above_the_bound_is_refused_before_it_is_there() -> None:
    async with live(max_message_mib=1) as house:
        answer = await house.send(request_head(CHAT, MIB + 1))  # not one byte of it sent
        assert (answer.status, answer.error["param"]) == (413, None)
        assert answer.headers["connection"] == "close"
        text = json.dumps({"messages": [user("x" * (MIB - 200))]}).encode()
        assert (await house.post(CHAT, text)).status == 200


async def test_a_body_without_a_length_is_refused_when_it_is_too_much() -> None:
    async with live(max_message_mib=1) as house:
        reader, writer = await house.connect()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(17):
            writer.write(piece)
        async with asyncio.timeout(5):
            assert (await read_answer(reader)).status == 413
        writer.close()


async def test_a_sender_that_does_not_stop_still_reads_why() -> None:
    """The answer is not lost in a reset, and what is sent on is not kept."""
    async with live(max_message_mib=1) as house:
        reader, writer = await house.connect()
        writer.write(request_head(CHAT, 1000 * MIB))
        for _ in range(64):
            writer.write(b"x" * 0x10000)
        async with asyncio.timeout(5):
            assert (await read_answer(reader)).status == 413
        writer.close()
        assert (await house.get("/health/live")).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with live(timeout_s=0.3) as house:
        head = request_head(CHAT, 1000)
        answer = await house.send(head + b"{")
    assert (answer.status, answer.error["type"]) == (408, "timeout_error")


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["begun", "whole"])
@pytest.mark.parametrize(
    "header",
    [b"X: " + b"x" * 40_000, b"X: " + b"x" * 2_000_000, b"X: a\r\n" * 20_000],
    ids=["40 kB", "2 MB", "many"],
)
async def test_a_large_header_is_refused(header: bytes, end: bytes) -> None:
    async with live() as house:
        answer = await house.send(b"GET /health/live HTTP/1.1\r\nHost: h\r\n" + header + end)
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert answer.error["message"] == "the header is larger than 32 KiB"
        for almost in (b"x" * 32_000, b"x"):
            lines = b"GET /health/live HTTP/1.1\r\nHost: h\r\nX: " + almost + b"\r\n\r\n"
            assert (await house.send(lines)).status == 200


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "control"])
async def test_a_slow_header_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, is_guarded: bool
) -> None:
    monkeypatch.setattr(protocol, "_HEADER_S", 0.3 if is_guarded else 30)
    async with live() as house:
        reader, writer = await house.connect()
        begin_s = time.monotonic()
        closed = asyncio.create_task(reader.read())
        for letter in b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":
            if closed.done():
                break
            writer.write(bytes([letter]))
            await asyncio.sleep(0.02)
        assert closed.done() is is_guarded
        if is_guarded:
            with suppress(ConnectionResetError):  # where a letter came after the end
                assert await closed == b""
            assert time.monotonic() - begin_s > 0.2
        writer.close()


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
async def test_the_engine_takes_no_step_for_who_has_left(is_stream: bool) -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        _, writer = await house.connect()
        body = json.dumps(HOLD | {"stream": is_stream}).encode()
        writer.write(request_head(CHAT, len(body)) + body)
        await until(lambda: engine.num_steps > 3)
        writer.close()
        await until(lambda: house.service.num_inside == 0)
        num_steps = engine.num_steps
        await asyncio.sleep(0.05)
        assert engine.num_steps == num_steps
        assert engine.load().num_free_slots == 1


async def test_control_without_watching_the_caller_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deaf(receive: object, work: Awaitable[Any]) -> Any:
        del receive
        return await work

    monkeypatch.setattr(answers, "unless_gone", deaf)
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        _, writer = await house.connect()
        body = json.dumps(HOLD).encode()
        writer.write(request_head(CHAT, len(body)) + body)
        await until(lambda: engine.num_steps > 3)
        writer.close()
        await asyncio.sleep(0.1)
        num_steps = engine.num_steps
        await asyncio.sleep(0.05)
        assert engine.num_steps > num_steps
        assert house.service.num_inside == 1


async def test_stopping_cuts_off_what_still_runs() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        _, writer = await house.connect()
        body = json.dumps(HOLD).encode()
        writer.write(request_head(CHAT, len(body)) + body)
        await until(lambda: engine.num_steps > 3)
        begin_s = time.monotonic()
        await house.http.stop()
        assert time.monotonic() - begin_s < 3
        assert house.service.num_inside == 0
        with pytest.raises(OSError, match="failed"):
            await house.connect()
        writer.close()


async def test_a_failure_inside_says_nothing_about_the_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live() as house:
        answer = await house.post(CHAT, {"messages": [user("a break")]})
    assert answer.status == 500
    assert answer.error["message"] == FAILED
    assert "secret" not in answer.body.decode()
    assert "Traceback" in caplog.text


async def opened(house: House[Any]) -> tuple[Any, str]:
    return (await house.get("/openapi.json")).json, (await house.get("/docs")).body.decode()


async def test_the_document_is_true_and_needs_nothing_from_elsewhere() -> None:
    async with live() as house:
        document, page = await opened(house)
        paths = {path: set(methods) for path, methods in document["paths"].items()}
        for path, methods in paths.items():
            answered = {
                method
                for method in ("get", "post", "put", "delete", "patch")
                if (await house.get(path, method.upper())).status != 405
            }
            assert answered == methods, path
    assert {CHAT, "/v1/responses", "/v1/models", "/process_image", "/health/ready"} <= set(paths)
    assert not re.search(r"(src|href)=\"(?!/openapi.json|#)", page)
    assert "<script" not in page
    assert all(path in page for path in paths)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            for status, answer in operation["responses"].items():
                if status >= "400":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    links = set(re.findall(r'href="#(\w+)"', page))
    assert links <= set(re.findall(r'id="(\w+)"', page))
    assert "HTTPValidationError" not in json.dumps(document)
