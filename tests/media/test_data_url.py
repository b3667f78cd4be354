"""data: URLs as RFC 2397 has them, and nothing beside."""

import asyncio
import base64
import binascii
from types import SimpleNamespace

import pytest

from vlserve.media import data_url
from vlserve.media.errors import Refused

DATA = bytes(range(256)) * 3
MAX_BYTES = 64 << 20
BODY = base64.b64encode(DATA).decode()
GOOD = {
    "data:image/png;base64," + BODY: DATA,
    "data:;base64," + BODY: DATA,
    "DATA:image/PNG;BASE64," + BODY: DATA,
    "data:image/png;name=a.png;charset=x;base64," + BODY: DATA,
    "data:image/png;base64," + BODY.replace("+", "%2B").replace("/", "%2f"): DATA,
    "data:image/png;base64,QQ%3D%3D": b"A",
    "data:text/plain,a%20b%00%ff": b"a b\x00\xff",
    "data:,": b"",
    "data:;base64,": b"",
    "data:nonsense;base64,QUI=": b"AB",
}
BAD = [
    "data:",
    "data:image/png;base64",
    "data:image/png;base64,QQ",
    "data:image/png;base64,QQ=",
    "data:image/png;base64,QQ===",
    "data:image/png;base64,QQ==QQ==",
    "data:image/png;base64,Q Q==",
    "data:image/png;base64,QQ==\n",
    "data:image/png;base64,\nQQ==",
    "data:image/png;base64,-_-_",
    "data:image/png;base64,=QQ=",
    "data:image/png;base64,Q",
    "data:image/png;base64,data:image/png;base64,QQ==",
    "data:image/png;base64,\u0391\u0391==",
    "data:image/png;base64,QQ%0A==",
    "data:" + "x" * 2000 + ";base64,QQ==",
    "data:image/png;base64," + "QUJD" * 2**18 + "QQ==" + "QUJD",
]


@pytest.mark.parametrize("url", GOOD)
async def test_what_it_holds(url: str) -> None:
    assert await data_url.decoded(url, MAX_BYTES) == GOOD[url]


@pytest.mark.parametrize("url", BAD, ids=range(len(BAD)))
async def test_what_is_none_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        await data_url.decoded(url, MAX_BYTES)


@pytest.mark.parametrize("length", [3 * 2**18 - 1, 3 * 2**18, 3 * 2**18 + 1, 5_000_000])
async def test_long_ones_come_in_pieces(length: int) -> None:
    data = (DATA * (length // len(DATA) + 1))[:length]
    url = "data:;base64," + base64.b64encode(data).decode()
    assert await data_url.decoded(url, MAX_BYTES) == data
    padded_inside = url[: 13 + 2**20 - 1] + "=" + url[13 + 2**20 :]
    if length > 3 * 2**18:
        with pytest.raises(Refused):
            await data_url.decoded(padded_inside, MAX_BYTES)


async def test_the_loop_is_free_while_a_long_one_is_decoded() -> None:
    url = "data:;base64," + base64.b64encode(bytes(48 << 20)).decode()
    loop = asyncio.get_running_loop()
    longest_s = last_s = 0.0

    async def watch() -> None:
        nonlocal longest_s, last_s
        last_s = loop.time()
        while True:
            await asyncio.sleep(0)
            longest_s = max(longest_s, loop.time() - last_s)
            last_s = loop.time()

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    begin_s = loop.time()
    assert len(await data_url.decoded(url, MAX_BYTES)) == 48 << 20
    whole_s = loop.time() - begin_s
    watching.cancel()
    print(f"64 MB of base64 in {whole_s * 1e3:.0f} ms, the loop away for {longest_s * 1e3:.0f} ms")
    assert longest_s < max(0.05, whole_s / 2)


async def test_escapes_are_bounded() -> None:
    with pytest.raises(Refused, match="use plain base64"):
        await data_url.decoded("data:," + "%41" * data_url.MAX_ESCAPED, MAX_BYTES)


@pytest.mark.parametrize("head", ["data:;base64,", "data:,"])
async def test_no_more_than_is_wanted(head: str) -> None:
    body = base64.b64encode(DATA).decode() if head.endswith("64,") else "x" * len(DATA)
    assert len(await data_url.decoded(head + body, len(DATA))) == len(DATA)
    with pytest.raises(Refused, match=f"has more than {len(DATA) - 1} bytes"):
        await data_url.decoded(head + body, len(DATA) - 1)


async def test_the_rest_of_what_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []

    def counted(piece: str, *, strict_mode: bool) -> bytes:
        pieces.append(len(piece))
        return binascii.a2b_base64(piece, strict_mode=strict_mode)

    monkeypatch.setattr(data_url, "binascii", SimpleNamespace(a2b_base64=counted))
    with pytest.raises(Refused):
        await data_url.decoded("data:;base64," + "QUJD" * (4 << 20), 1000)
    assert pieces == [1 << 20]
