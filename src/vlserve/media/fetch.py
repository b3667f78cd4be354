"""Pictures by http and https, where that is switched on. Nothing about a URL is believed.

What is judged is the address of each connection, in the moment in which it is made, on every hop:
whatever a name resolves to, or a literal is spelled like, ends there.
"""

import asyncio
import socket
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractCookieJar
from yarl import URL

from vlserve.media.address import is_public
from vlserve.media.allowance import Allowance
from vlserve.media.errors import Refused

MAX_REDIRECTS: Final = 3
_MAX_AT_ONCE: Final = 16
_PIECE_BYTES: Final = 64 * 1024
_MAX_URL: Final = 8192
_HEADERS: Final = {
    "User-Agent": "vlserve",
    "Accept": "image/*, video/*",
    "Accept-Encoding": "identity",
}
# One text for all, so that none tells what is there inside and what is not.
_FAILED: Final = (
    "could not be fetched: its host is unknown, not public, or does not answer as it should"
)
_NO_URL: Final = "is not a URL: write http:// or https://, the host, and the path in ASCII"


class Fetcher:
    """Fetches within `max_s` and `max_bytes`, from `hosts` alone where any are given."""

    def __init__(self, max_s: float, max_bytes: int, hosts: frozenset[str]) -> None:
        self._max_s = max_s
        self._max_bytes = max_bytes
        self._hosts = hosts
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    async def fetch(self, url: str, allowance: Allowance, max_bytes: int) -> bytes:
        """The body behind `url`, at most MAX_REDIRECTS redirects away, taken off `allowance`: at
        most `max_bytes`, where these are fewer than it fetches at all.

        Raises Refused, with nothing in its text that the caller could not know.
        """
        bound = "max_image_bytes" if max_bytes < self._max_bytes else "media.fetch_mib"
        most = (min(max_bytes, self._max_bytes), bound)
        try:
            async with asyncio.timeout(self._max_s), self._turns, _session(self._max_s) as session:
                target = self._judged(url)
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._asked(session, target, allowance, *most)
                    if isinstance(found, bytes):
                        return found
                    target = self._judged(found, target)
        except TimeoutError:
            message = f"could not be fetched within {self._max_s:g} s"
            raise Refused(message, "media.fetch_s") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise Refused(_FAILED) from None
        raise Refused(f"is more than {MAX_REDIRECTS} redirects away")

    def _judged(self, url: str, base: URL | None = None) -> URL:
        if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or "\\" in url:
            raise Refused(_NO_URL)
        try:
            target = base.join(URL(url)) if base else URL(url)
            host, _ = target.host, target.port
        except ValueError:
            raise Refused(_NO_URL) from None
        if target.scheme not in ("http", "https") or not host:
            raise Refused("must be an http: or https: URL")
        if target.user is not None or target.password is not None:
            raise Refused("must be a URL without a user and a password")
        if self._hosts and host.lower().rstrip(".") not in self._hosts:
            raise Refused("is not on a host that this server fetches from", "media.fetch_hosts")
        return target.with_fragment(None)

    async def _asked(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        allowance: Allowance,
        max_bytes: int,
        bound: str,
    ) -> bytes | str:
        """The body, or where it is instead."""
        async with session.get(url, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308):
                return response.headers.get("Location", "")
            if response.status != 200:
                raise Refused(f"could not be fetched: its server answers {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Refused("is sent compressed, which was not asked for")
            if (response.content_length or 0) > max_bytes:
                raise _endless(max_bytes, bound)
            body = bytearray()
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                allowance.take(len(piece))
                body += piece
                if len(body) > max_bytes:
                    raise _endless(max_bytes, bound)
            return bytes(body)


def _endless(max_bytes: int, bound: str) -> Refused:
    """Of a body that is not fetched to its end."""
    return Refused(f"has more than {max_bytes} bytes, the most that is fetched", bound)


def _session(max_s: float) -> aiohttp.ClientSession:
    """One for each fetch: nothing is kept from one to the next."""
    connector = aiohttp.TCPConnector(
        socket_factory=_guarded_socket, use_dns_cache=False, force_close=True
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=_no_cookies(),
        headers=_HEADERS,
        timeout=aiohttp.ClientTimeout(total=max_s),
        auto_decompress=False,
        trust_env=False,  # no proxy, no .netrc
    )


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()


def _guarded_socket(address: Any) -> socket.socket:
    """A socket for one connection. Raises OSError, before it exists, for what is not public."""
    family, kind, protocol, _, sockaddr = address
    if not is_public(str(sockaddr[0])):
        raise OSError("not a public address")
    return socket.socket(family, kind, protocol)
