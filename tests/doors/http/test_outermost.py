"""The id of a request, pages of other origins, and how a request ends that the server cuts off."""

import asyncio
import json
import logging
import re
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from tests.doors.http.live import Answer, House, live, read_answer, request_head, served, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve import errors
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.request_ids import MAX_LENGTH
from vlserve.settings import HttpSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [user("hello")]}
PAGE = "http://localhost:3000"
ID = {"X-Request-Id": "from-the-caller.1"}


async def every_kind(house: House[Any], headers: dict[str, str]) -> dict[str, Answer]:
    """An answer of each kind to a caller who sends `headers`."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    get = "{} {} HTTP/1.1\r\nHost: h\r\n" + lines + "\r\n"
    return {
        "whole": await house.post(CHAT, HELLO, **headers),
        "stream": await house.post(CHAT, HELLO | {"stream": True}, **headers),
        "health": await house.send(get.format("GET", "/health/live").encode()),
        "400": await house.post(CHAT, {"messages": 1}, **headers),
        "404": await house.send(get.format("GET", "/nothing").encode()),
        "405": await house.send(get.format("PUT", "/v1/models").encode()),
        "413": await house.send(request_head(CHAT, 2 << 20, **headers)),
        "415": await house.post(CHAT, HELLO, **{"Content-Encoding": "br"}, **headers),
        "500": await house.post(CHAT, {"messages": [user("a break")]}, **headers),
    }


async def test_every_answer_has_the_callers_id() -> None:
    async with live(max_message_mib=1) as house:
        found = await every_kind(house, ID)
    for kind, answer in found.items():
        assert answer.headers["x-request-id"] == "from-the-caller.1", kind
        if kind.isdigit():
            assert answer.status == int(kind)
            assert answer.error["request_id"] == "from-the-caller.1"


@pytest.mark.parametrize(
    "offered", [None, "", "two words", "a" * (MAX_LENGTH + 1), "caf\xe9", "<script>", "a\tb"]
)
async def test_where_none_or_an_unsafe_one_is_offered_one_is_made(offered: str | None) -> None:
    line = f"X-Request-Id: {offered}\r\n" if offered is not None else ""
    raw = f"GET /nothing HTTP/1.1\r\nHost: h\r\n{line}\r\n".encode("latin-1")
    async with live() as house:
        ids = {(await house.send(raw)).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(made.startswith("req_") and made != offered for made in ids)


@pytest.mark.parametrize("raw", [b"no request\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000])
async def test_what_never_comes_to_a_router_has_one_as_well(raw: bytes) -> None:
    async with live() as house:
        answer = await house.send(raw)
    assert answer.status in (400, 431)
    assert answer.error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"


async def test_an_error_in_a_stream_and_the_log_have_it(caplog: pytest.LogCaptureFixture) -> None:
    async with live() as house:
        body = {"messages": [user("one two break")], "stream": True}
        answer = await house.post(CHAT, body, **ID)
    *_, failed = (line for line in answer.body.splitlines() if line.startswith(b'data: {"error"'))
    assert json.loads(failed.removeprefix(b"data: "))["error"]["request_id"] == ID["X-Request-Id"]
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert record.getMessage() == "request from-the-caller.1 failed"


async def test_openais_own_client_finds_it() -> None:
    async with live() as house, house.client() as client:
        messages: Any = HELLO["messages"]
        answer = await client.chat.completions.create(model="", messages=messages)
        assert answer._request_id is not None
        assert answer._request_id.startswith("req_")
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("other")
        assert caught.value.request_id is not None
        assert caught.value.request_id == caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize("offered", ["from-the-caller.1", None, "two words"])
async def test_over_grpc_it_is_in_the_metadata(offered: str | None) -> None:
    metadata = () if offered is None else (("x-request-id", offered),)
    async with live() as house, house.grpc_client() as client:
        for wire in (pb.VisionRequest(prompt="hello"), pb.VisionRequest()):  # the second is refused
            call = client.chat(wire, metadata=metadata)
            found: dict[str, Any] = dict(await call.trailing_metadata())
            if offered == "from-the-caller.1":
                assert found["x-request-id"] == offered
            else:
                assert found["x-request-id"].startswith("req_")


@pytest.mark.parametrize("allowed", [PAGE, f"https://example.com, {PAGE}", "*"])
async def test_a_page_of_an_allowed_origin_may_ask_and_reads_errors(allowed: str) -> None:
    async with served(
        ScriptedEngine(), http={"allowed_origins": allowed}, max_message_mib=1
    ) as house:
        ask = f"OPTIONS {CHAT} HTTP/1.1\r\nHost: h\r\nOrigin: {PAGE}\r\n"
        ask += "Access-Control-Request-Method: POST\r\n"
        ask += "Access-Control-Request-Headers: authorization, content-type\r\n\r\n"
        before = await house.send(ask.encode())
        assert (before.status, before.headers["access-control-allow-origin"]) == (
            200,
            "*" if allowed == "*" else PAGE,
        )
        assert "POST" in before.headers["access-control-allow-methods"]
        assert "authorization" in before.headers["access-control-allow-headers"]
        assert "x-request-id" in before.headers
        for kind, answer in (await every_kind(house, {"Origin": PAGE})).items():
            assert answer.headers["access-control-allow-origin"] in (PAGE, "*"), kind
            exposed = answer.headers["access-control-expose-headers"]
            assert {"x-request-id", "retry-after", "server-timing"} <= set(exposed.split(", "))


@pytest.mark.parametrize("allowed", ["", "https://example.com", "http://localhost"])
async def test_any_other_page_may_not(allowed: str) -> None:
    async with served(
        ScriptedEngine(), http={"allowed_origins": allowed}, max_message_mib=1
    ) as house:
        for answer in (await every_kind(house, {"Origin": PAGE})).values():
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "more", "words"),
    [
        ("https://other.example", "", ("'https://other.example'", PAGE, "http.allowed_origins")),
        (PAGE, "Method: PATCH", ("'PATCH'", "GET, HEAD, POST, DELETE")),
        (PAGE, "Private-Network: true", ("Access-Control-Request-Private-Network",)),
    ],
)
async def test_what_a_page_may_not_ask_is_refused_in_the_form_of_every_error(
    origin: str, more: str, words: tuple[str, ...]
) -> None:
    async with served(ScriptedEngine(), http={"allowed_origins": PAGE}) as house:
        ask = f"OPTIONS {CHAT} HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n"
        lines = [more] if more.startswith("Method") else ["Method: POST", *filter(None, [more])]
        ask += "".join(f"Access-Control-Request-{line}\r\n" for line in lines) + "\r\n"
        answer = await house.send(ask.encode())
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"].split(", ")[0] == "Origin"
    assert answer.error["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in answer.error["message"]


async def test_a_request_that_is_cut_off_as_the_server_stops_is_told_so() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.002)
    async with live(engine) as house:
        reader, writer = await house.connect()
        body = json.dumps({"messages": [user("hold")]}).encode()
        writer.write(request_head(CHAT, len(body), **ID) + body)
        await until(lambda: engine.num_steps > 3)
        stopping = asyncio.create_task(house.http.stop())
        answer = await read_answer(reader)
        assert (answer.status, answer.error["message"]) == (503, errors.stopping().message)
        assert answer.error["request_id"] == ID["X-Request-Id"]
        await stopping
        writer.close()


@pytest.mark.parametrize(
    "origin",
    ["example.com", "https://example.com/", "https://example.com/page", "https://*", "http://h:x"],
)
async def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match=f"{re.escape(repr(origin))} is not an origin"):
        HttpSettings(allowed_origins=f"http://localhost:3000, {origin}")


async def test_no_page_of_another_origin_is_allowed_where_nothing_is_set() -> None:
    async with live(max_message_mib=1) as house:
        for kind, answer in (await every_kind(house, {"Origin": PAGE})).items():
            assert "access-control-allow-origin" not in answer.headers, kind
