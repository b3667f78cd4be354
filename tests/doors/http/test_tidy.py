"""What probes and proxies send: HEAD, slashes too many, compressed bodies, idle connections."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable

import pytest

from tests.doors.http.live import live, read_answer, request_head, served, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.doors.http.encodings import Decoding
from vlserve.settings import HttpSettings

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
MIB = 1 << 20
HELLO = json.dumps({"messages": [user("hello")]}).encode()


async def test_head_is_wherever_get_is() -> None:
    async with live() as house:
        paths = [
            path
            for path, methods in (await house.get("/openapi.json")).json["paths"].items()
            if "get" in methods
        ]
        for path in (*paths, "/docs", "/openapi.json"):
            get = await house.get(path)
            reader, writer = await house.connect()
            writer.write(f"HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(5):
                answered = await reader.read()
            head, _, body = answered.partition(b"\r\n\r\n")
            assert int(head.split()[1]) == get.status, path
            assert f"content-length: {len(get.body)}".encode() in head.lower(), path
            assert body == b"", path
            writer.close()
        refused = await house.get(CHAT, "PUT")
        assert (refused.status, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/v1//models", "/v1/models/", "//v1/models//", "/v1/models"])
async def test_a_slash_too_many_is_none(path: str) -> None:
    async with live() as house:
        assert (await house.get(path)).json == (await house.get("/v1/models")).json
        asked = await house.post(f"/{CHAT}/", json.loads(HELLO))
        assert asked.json["choices"][0]["message"]["content"] == "hello "


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
async def test_a_compressed_body_is_read(
    encoding: str, compressed: Callable[[bytes], bytes]
) -> None:
    async with live() as house:
        for text in ("hello", "x" * 600_000):
            body = compressed(json.dumps({"messages": [user(text)], "max_tokens": 1}).encode())
            answer = await house.post(CHAT, body, **{"Content-Encoding": encoding})
            assert answer.status == 200, answer.body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,", "x" * 500])
async def test_another_encoding_is_refused_by_name(encoding: str) -> None:
    async with live() as house:
        answer = await house.post(CHAT, HELLO, **{"Content-Encoding": encoding})
        assert not house.engine.seen
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert answer.error["message"] == (
        f"the body is encoded as {encoding[:40]!r} (Content-Encoding): send it uncompressed, or"
        " compressed once by gzip or deflate"
    )


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (HELLO, "data that is something else"),
        (gzip.compress(HELLO, mtime=0)[:-4], "no end"),
        (gzip.compress(HELLO, mtime=0)[:-1] + b"\xff", "data that is something else"),
        (gzip.compress(HELLO, mtime=0) + b"more", "data after its end"),
        (gzip.compress(HELLO, mtime=0) * 2, "data after its end"),
    ],
)
async def test_what_is_said_to_be_gzip_and_is_not_is_refused(body: bytes, fault: str) -> None:
    async with live() as house:
        answer = await house.post(CHAT, body, **{"Content-Encoding": "gzip"})
    assert answer.status == 400
    expected = f"the body is said to be in gzip (Content-Encoding) and has {fault}"
    assert answer.error["message"] == expected


async def test_a_bomb_is_bounded_by_what_comes_out_of_it() -> None:
    bomb = gzip.compress(b'{"messages": "' + bytes(256 * MIB), 9)
    assert max(map(len, Decoding("gzip").pieces(bomb))) <= MIB // 4
    fits = gzip.compress(json.dumps({"messages": [user("x" * (MIB - 1000))]}).encode())
    async with live(max_message_mib=1, max_bodies_mib=1) as house:
        begin_s = time.monotonic()
        answer = await house.post(CHAT, bomb, **{"Content-Encoding": "gzip"})
        assert (answer.status, answer.error["code"]) == (413, "request_entity_too_large")
        assert "1 MiB (limits.max_message_mib)" in answer.error["message"]
        assert time.monotonic() - begin_s < 5  # the whole of it takes longer
        assert (await house.post(CHAT, fits, **{"Content-Encoding": "gzip"})).status == 200
        _, writer = await house.connect()  # what comes out counts among all bodies
        writer.write(request_head(CHAT, len(fits), **{"Content-Encoding": "gzip"}) + fits[:-1])
        await until(lambda: house.service._bodies.num_left < MIB // 2)
        assert (await house.post(CHAT, fits, **{"Content-Encoding": "gzip"})).status == 429
        writer.close()
        await until(lambda: house.service._bodies.num_left == MIB)


@pytest.mark.parametrize(("keep_alive_s", "is_kept"), [(0.2, False), (60.0, True)])
async def test_a_connection_is_kept_as_long_as_is_set(keep_alive_s: float, is_kept: bool) -> None:
    """With a request before, and with none."""
    async with served(ScriptedEngine(), http={"keep_alive_s": keep_alive_s}) as house:
        for is_first in (True, False):
            reader, writer = await house.connect()
            if not is_first:
                writer.write(request_head(CHAT, len(HELLO)) + HELLO)
                assert (await read_answer(reader)).status == 200
            closing = asyncio.create_task(reader.read())
            await asyncio.wait([closing], timeout=0.5 if is_kept else 4)
            assert closing.done() is not is_kept
            closing.cancel()
            writer.close()


async def test_it_is_kept_longer_than_a_proxy_keeps_its_own() -> None:
    """One that is closed just as the proxy sends the next request is a request that is lost."""
    assert HttpSettings().keep_alive_s >= 75


async def test_a_line_end_between_requests_does_not_shorten_how_long_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vlserve.doors.http.protocol._HEADER_S", 0.1)
    async with live() as house:
        reader, writer = await house.connect()
        for _ in range(2):
            writer.write(request_head(CHAT, len(HELLO)) + HELLO)
            assert (await read_answer(reader)).status == 200
            writer.write(b"\r\n")
            await asyncio.sleep(0.3)
        writer.close()
