"""A web in a network namespace of its own: `unshare -rn python -m tests.media.web`.

Public addresses and private ones are all on its loopback device, with one server behind all of
them that notes to which address each connection came. The last line printed says what came.
"""

import asyncio
import contextlib
import gzip
import io
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from vlserve.errors import Code, ServeError
from vlserve.media import fetch
from vlserve.media.sources import Sources
from vlserve.settings import LimitSettings, MediaSettings
from vlserve.types import ImageRef, MediaBounds, VideoRef

PUBLIC: Final = ("93.184.216.34", "8.8.4.4", "2606:4700::6810:84e5")
PRIVATE: Final = (
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "169.254.169.254"),
    *("168.63.129.16", "192.0.0.192", "198.18.0.1", "192.88.99.1", "224.0.0.1", "240.0.0.1"),
    *("fd00:ec2::254", "fc00::1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:7f00:1::1"),
    *("fe80::1", "2001:db8::1", "::7f00:1", "64:ff9b:1::1"),
)
NAMES: Final[dict[str, list[str]]] = {
    "good.example": ["93.184.216.34"],
    "other.example": ["8.8.4.4"],
    "six.example": ["2606:4700::6810:84e5"],
    "inside.example": ["127.0.0.1"],
    "inside6.example": ["::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "mixed.example": ["127.0.0.1", "93.184.216.34"],
    "mapped.example": ["::ffff:127.0.0.1"],
}
HOSTILE: Final = (
    *("http://127.0.0.1/p.png", "http://localhost/p.png", "http://127.1/p.png", "http://127.0.1/p"),
    *("http://2130706433/p.png", "http://0x7f000001/p.png", "http://0x7f.0.0.1/p.png"),
    *("http://0177.0.0.1/p.png", "http://017700000001/p.png", "http://0/p.png", "http://0.0.0.0/p"),
    *("http://[::1]/p.png", "http://[::]/p.png", "http://[::ffff:127.0.0.1]/p.png"),
    *("http://[::ffff:7f00:1]/p.png", "http://[::127.0.0.1]/p", "http://[64:ff9b::7f00:1]/p.png"),
    *("http://[64:ff9b:1::1]/p.png", "http://[2002:7f00:1::1]/p", "http://[2001:0:7f00:1::1]/p"),
    *("http://[fc00::1]/p.png", "http://[fd00:ec2::254]/latest", "http://[fe80::1%25lo]/p.png"),
    *("http://10.0.0.1/p.png", "http://172.16.0.1/p.png", "http://192.168.0.1/p.png"),
    *("http://100.64.0.1/p.png", "http://100.100.100.200/latest", "http://169.254.169.254/latest"),
    *(
        "http://168.63.129.16/p",
        "http://192.0.0.192/opc",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
    ),
    *("http://metadata.google.internal/", "http://inside.example/p.png", "http://inside6.example/"),
    *("http://mapped.example/p.png", "http://rebinding.example/p.png", "http://127.0.0.1:81/p.png"),
    *("http://good.example@127.0.0.1/p.png", "http://127.0.0.1\\@good.example/p.png"),
    *("http://good.example\\@127.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/p.png"),
    *("http://127.0.0.1%00.good.example/", "http://\u2460\u2461\u2466.0.0.1/", "http:127.0.0.1/p"),
    *("file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/p.png", "dict://127.0.0.1:80/"),
    *("unix:///run/x.sock", "//127.0.0.1/p.png", "http:///p.png", "jar:http://127.0.0.1!/p"),
    "http://good.example/to?url=http://127.0.0.1/p.png",
    "http://good.example/to?url=http://169.254.169.254/latest",
    "http://good.example/to?url=http://rebinding.example/p.png",
    "http://good.example/to?url=file:///etc/passwd",
    "http://good.example/to?url=//127.0.0.1/p.png",
    "http://good.example/to?url=http://good.example/to%3Furl=http://10.0.0.1/",
    "http://good.example/loop",
    "http://good.example/chain/4",
)
GOOD: Final = (
    "http://good.example/p.png",
    "http://93.184.216.34:81/p.png",
    "http://[2606:4700::6810:84e5]/p.png",
    "http://good.example/chain/3",
)
FAILED: Final = (
    "could not be fetched: its host is unknown, not public, or does not answer as it should"
)
# Answered by their host, but not with what may be taken.
TOO_LARGE: Final = "has more than 1048576 bytes, the most that is fetched (media.fetch_mib)"
BODIES: Final = {
    "http://good.example/endless": TOO_LARGE,
    "http://good.example/said": TOO_LARGE,
    "http://good.example/gzip": "is sent compressed, which was not asked for",
    "http://good.example/drip": "could not be fetched within 1 s (media.fetch_s)",
    "http://good.example/silent": "could not be fetched within 1 s (media.fetch_s)",
    "http://good.example/headers": FAILED,
    "http://good.example/404": "could not be fetched: its server answers 404",
    "http://good.example/cut": FAILED,
    "http://good.example/garbage": FAILED,
    "http://user:secret@good.example/p.png": "must be a URL without a user and a password",
    "http://nowhere.example/p.png": FAILED,
    "http://93.184.216.34:9/p.png": FAILED,
}


@dataclass
class Web:
    """What came to the servers, by the address at which it came."""

    connects: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    num_rebindings: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        self.connects.append(address)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append((address, head))
            await self._answer(head.split(" ")[1], writer)
        writer.close()

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> None:  # noqa: PLR0912
        url = urlsplit(target)
        match url.path.strip("/").split("/"):
            case ["to"]:
                _redirect(writer, parse_qs(url.query)["url"][0])
            case ["loop"]:
                _redirect(writer, "/loop")
            case ["chain", left]:
                hosts = ("good.example", "other.example")
                there = f"http://{hosts[int(left) % 2]}/chain/{int(left) - 1}"
                _redirect(writer, there if int(left) > 1 else "http://other.example/p.png")
            case ["endless"]:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
            case ["said"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
            case ["gzip"]:
                body = _BOMB
                head = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n" + head.encode() + body)
            case ["drip"]:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            case ["silent"]:
                await asyncio.sleep(5)
            case ["headers"]:
                writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20))
            case ["cut"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            case ["garbage"]:
                writer.write(b"\0\1\2 not http\r\n\r\n")
            case ["404"]:
                writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            case _:
                body = png()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
        await writer.drain()

    def addresses(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        """In place of socket.getaddrinfo, for the names of this web."""
        name = host.decode() if isinstance(host, bytes) else host
        if name == "rebinding.example":  # good when it is asked about, bad when it is used
            self.num_rebindings += 1
            found = ["93.184.216.34"] if self.num_rebindings % 2 else ["127.0.0.1"]
        elif name in NAMES:
            found = NAMES[name]
        else:
            return _REAL(host, port, *rest, **options)
        return [item for address in found for item in _REAL(address, port, *rest, **options)]


_REAL: Final = socket.getaddrinfo
_BOMB: Final = gzip.compress(bytes(20 << 20), 1)


def _redirect(writer: asyncio.StreamWriter, there: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {there}\r\nSet-Cookie: who=me; Path=/\r\n"
    writer.write(head.encode() + b"Content-Length: 0\r\n\r\n")


def png() -> bytes:
    """A picture of 4 x 3 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


NUM_BYTES: Final = len(png())
# Fetched by a request that bounds the bytes of its pictures.
BOUNDED: Final = (
    ("http://good.example/p.png", NUM_BYTES),
    ("http://good.example/p.png", NUM_BYTES - 1),
    ("http://good.example/endless", 100_000),
    ("http://good.example/said", 100_000),
    ("http://good.example/endless", 2 << 20),
)


def raise_network() -> None:
    """Put all addresses on the loopback device of this namespace."""
    commands = ["link set lo up", *(f"addr add {each}/32 dev lo" for each in (*PUBLIC, *PRIVATE))]
    for command in commands:
        text = command.replace("/32", "/128") if ":" in command else command
        subprocess.run(["ip", *text.split()], check=False, capture_output=True)


@asynccontextmanager
async def up(*, is_guarded: bool) -> AsyncIterator[Web]:
    """The web, for this process and those that it starts."""
    web = Web()
    socket.getaddrinfo = web.addresses
    if not is_guarded:
        fetch._guarded_socket = lambda address: socket.socket(*address[:3])
    async with AsyncExitStack() as closing:
        for host in ("0.0.0.0", "::"):  # noqa: S104  of this namespace
            for port in (80, 81):
                server = await asyncio.start_server(web.serve, host, port)
                closing.callback(server.close)
        yield web


async def trial(*, is_guarded: bool) -> dict[str, Any]:
    """Ask for every URL, as a picture and as a video."""
    async with up(is_guarded=is_guarded) as web:
        return await _asked(web, is_guarded=is_guarded)


async def _asked(web: Web, *, is_guarded: bool) -> dict[str, Any]:
    settings = MediaSettings(fetch_urls=True, fetch_mib=1, fetch_s=1.0)
    sources = Sources(settings, LimitSettings())
    wrong: list[str] = []
    num_refused = num_good = num_bodies = 0
    texts: set[str] = set()
    for url in HOSTILE:
        for ref in (ImageRef(url=url, field="there"), VideoRef(url=url, field="there")):
            before = len(web.connects)
            try:
                await sources.find([ref], "", MediaBounds())
                # When its name meant the public host, that is who answered.
                is_public = "rebinding" in url and set(web.connects[before:]) <= set(PUBLIC)
                num_refused += is_public
                wrong += [] if is_public else [f"{url} was answered"]
            except ServeError as error:
                num_refused += (error.code, error.field) == (Code.INVALID_ARGUMENT, "there")
                texts.add(error.message)
            wrong += [f"{url} reached {to}" for to in web.connects[before:] if to not in PUBLIC]
    for url in GOOD if is_guarded else ():
        (source,) = await sources.find([ImageRef(url=url, field="there")], "", MediaBounds())
        num_good += source.encoded.data == png()
    for url, text in BODIES.items() if is_guarded else ():
        try:
            await sources.find([ImageRef(url=url, field="there")], "", MediaBounds())
        except ServeError as error:
            num_bodies += error.message == text
            if error.message != text:
                wrong.append(f"{url}: {error.message}")
    bounded = await _bounded(sources) if is_guarded else {}
    allowed = Sources(
        settings.model_copy(update={"fetch_hosts": "Good.example, x"}), LimitSettings()
    )
    hosts: dict[str, int | str] = {}
    for url in ("http://good.example/p.png", "http://other.example/p.png", GOOD[3]):
        try:
            hosts[url] = len(await allowed.find([ImageRef(url=url)], "", MediaBounds()))
        except ServeError as error:
            hosts[url] = error.message
    lines = [line.lower() for _, head in web.requests for line in head.split("\r\n")[1:] if line]
    return {
        "tried": 2 * len(HOSTILE),
        "refused": num_refused,
        "inside": sum(to not in PUBLIC for to in web.connects),
        "wrong": wrong,
        "texts": sorted(texts),
        "good": num_good,
        "bodies": num_bodies,
        "hosts": hosts,
        "bounded": bounded,
        "headers": sorted({line.split(":")[0] for line in lines}),
    }


async def _bounded(sources: Sources) -> dict[str, int | str]:
    """What a request may fetch that bounds it: refused by what is said of it, or by what comes."""
    found: dict[str, int | str] = {}
    for url, max_bytes in BOUNDED:
        try:
            wanted = MediaBounds(max_image_bytes=max_bytes)
            (source,) = await sources.find([ImageRef(url=url)], "", wanted)
            found[f"{url} {max_bytes}"] = len(source.encoded.data)
        except ServeError as error:
            found[f"{url} {max_bytes}"] = error.message
    return found


if __name__ == "__main__":
    raise_network()
    print(json.dumps(asyncio.run(trial(is_guarded="unguarded" not in sys.argv))))
