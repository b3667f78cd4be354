"""data: URLs as RFC 2397 has them, and what of base64 can be mended without a guess."""

import asyncio
import base64
import binascii
import re
from types import SimpleNamespace

import pytest

from vlserve.media import data_url
from vlserve.media.errors import Refused

DATA = bytes(range(256)) * 3
MAX_BYTES = 64 << 20
BODY = base64.b64encode(DATA).decode()
LINES = base64.encodebytes(DATA)
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
    "data:;base64," + LINES.decode(): DATA,
    "data:;base64," + LINES.decode().replace("\n", "\r\n"): DATA,
    "data:;base64," + base64.urlsafe_b64encode(DATA).decode(): DATA,
    "data:;base64,-_-_": b"\xfb\xff\xbf",
    "data:;base64,-_+/": b"\xfb\xff\xbf",
    "data:;base64,QQ": b"A",
    "data:;base64,QQ=": b"A",
    "data:;base64,QUI": b"AB",
    "data:;base64,QQ==\n": b"A",
    "data:;base64,QQ=\n=\n": b"A",
    "data:;base64,\nQ\nQ": b"A",
    "data:;base64,QQ%0A==": b"A",
}
NOT_ENOUGH = "is not base64: {} characters are one too many or too few"
BAD = {
    "data:": "is a data: URL without a comma before its data",
    "data:image/png;base64": "is a data: URL without a comma before its data",
    "data:;base64,QQ===": NOT_ENOUGH.format(5),
    "data:;base64,QQ==QQ==": "is not base64: the padding at 2 is not its end",
    "data:;base64,Q Q==": "is not base64: white space at 1: write it without, as base64 -w0 does",
    "data:;base64,QQ==\t": "is not base64: white space at 4: write it without, as base64 -w0 does",
    "data:;base64," + BODY[:76] + " " + BODY[76:]: "white space at 76: write it",
    "data:;base64,=QQ=": "is not base64: the padding at 0 is not its end",
    "data:;base64,Q": NOT_ENOUGH.format(1),
    "data:;base64,QUJDR": NOT_ENOUGH.format(5),
    "data:;base64,Q===": NOT_ENOUGH.format(4),
    "data:;base64,data:image/png;base64,QQ==": "is not base64: ':' at 4",
    "data:;base64,QUJD\x00": r"is not base64: '\x00' at 4",
    "data:;base64,QUJD%ff": "is not base64: 'ÿ' at 4",
    "data:;base64,\u0391\u0391==": "is a data: URL with a character beyond ASCII, at 13",
    "data:" + "x" * 2000 + ";base64,QQ==": "is a data: URL without a comma before its data",
    "data:;base64," + "QUJD" * 2**18 + "QQ==" + "QUJD": "the padding at 1048578 is not its end",
    "data:;base64," + "QUJD" * (2**18 - 1) + "QQ==" + "QUJD": "the padding at 1048574 is not its",
    "data:;base64," + "QUJD" * 2**18 + "*": "is not base64: '*' at 1048576",
}


@pytest.mark.parametrize("url", GOOD)
async def test_what_it_holds(url: str) -> None:
    assert await data_url.decode(url, MAX_BYTES) == GOOD[url]


@pytest.mark.parametrize("url", BAD, ids=range(len(BAD)))
async def test_what_is_none_is_refused(url: str) -> None:
    with pytest.raises(Refused, match=re.escape(BAD[url])):
        await data_url.decode(url, MAX_BYTES)


@pytest.mark.parametrize("how", ["as it is", "in lines", "url-safe", "in lines of another length"])
@pytest.mark.parametrize("length", [3 * 2**18 - 1, 3 * 2**18, 3 * 2**18 + 1, 5_000_000])
async def test_long_ones_come_in_pieces(length: int, how: str) -> None:
    data = (DATA * (length // len(DATA) + 1))[:length]
    url = "data:;base64," + base64.b64encode(data).decode()
    if how == "in lines":
        url = "data:;base64," + base64.encodebytes(data).decode()
    elif how == "url-safe":
        url = "data:;base64," + base64.urlsafe_b64encode(data).decode().rstrip("=")
    elif how != "as it is":
        url = re.sub("(.{1001})", r"\1\n", url)
    assert await data_url.decode(url, MAX_BYTES) == data
    padded_inside = url[: 13 + 2**20 - 1] + "=" + url[13 + 2**20 :]
    if length > 3 * 2**18:
        with pytest.raises(Refused):
            await data_url.decode(padded_inside, MAX_BYTES)


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
    assert len(await data_url.decode(url, MAX_BYTES)) == 48 << 20
    whole_s = loop.time() - begin_s
    watching.cancel()
    print(f"64 MB of base64 in {whole_s * 1e3:.0f} ms, the loop away for {longest_s * 1e3:.0f} ms")
    assert longest_s < max(0.05, whole_s / 2)


async def test_escapes_are_bounded() -> None:
    with pytest.raises(Refused, match="use plain base64"):
        await data_url.decode("data:," + "%41" * data_url.MAX_ESCAPED, MAX_BYTES)


@pytest.mark.parametrize("head", ["data:;base64,", "data:,"])
async def test_no_more_than_is_wanted(head: str) -> None:
    body = base64.b64encode(DATA).decode() if head.endswith("64,") else "x" * len(DATA)
    assert len(await data_url.decode(head + body, len(DATA))) == len(DATA)
    with pytest.raises(Refused, match=f"has {len(DATA)} bytes; send at most {len(DATA) - 1}"):
        await data_url.decode(head + body, len(DATA) - 1)


async def test_the_rest_of_what_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []

    def counted(piece: bytes, *, strict_mode: bool) -> bytes:
        pieces.append(len(piece))
        return binascii.a2b_base64(piece, strict_mode=strict_mode)

    monkeypatch.setattr(data_url, "binascii", SimpleNamespace(a2b_base64=counted))
    with pytest.raises(Refused):
        await data_url.decode("data:;base64," + "QUJD" * (4 << 20), 1000)
    assert pieces == [1 << 20]
