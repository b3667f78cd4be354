"""The one client of OpenAI's API: its models, whole answers, and streams of server-sent events.

A body is sent as it is given, and an answer is given as it came. Nothing is tried again: whoever
asks knows what a failure means. The home of httpx2.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

CONNECT_S: Final = 5.0
_IN_PROCESS: Final = "http://in-process"
_JSON: Final = {"content-type": "application/json"}
_DONE: Final = "[DONE]"
_SHOWN: Final = 300  # characters of an answer that is no error of OpenAI's form
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Unreachable(Exception):  # noqa: N818  not a fault of ours: a server is not there
    """No whole answer came: nobody listens, or the connection broke. The text says which."""


class Refused(Exception):  # noqa: N818  not a fault of ours: a server does not answer
    """A stream that did not begin: the server answered `status`. The text is the server's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BrokenStream(Exception):  # noqa: N818  not a fault of ours: a server ends an answer
    """An answer that ended with an error in the middle. The text is the server's own."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: `headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300

    @property
    def is_json(self) -> bool:
        """Whether it says that it is JSON."""
        return "application/json" in self.headers.get("content-type", "")

    def json(self) -> Any:
        """The answer. Raises ValueError for what is no JSON."""
        return json.loads(self.content)


class Client:
    """A server, by its URL. Raises Unreachable from each of its calls."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    @property
    def url(self) -> str:
        """Where the server is."""
        return str(self._http.base_url).rstrip("/")

    async def is_ready(self, within_s: float) -> bool:
        """Whether a server of ours is there and answers questions."""
        try:
            reply = await self._http.get("health/ready", timeout=within_s)
        except httpx2.TransportError:
            return False
        return reply.is_success

    async def models(self) -> list[str]:
        """The names that the server lists. Raises Refused, and ValueError for what is no list."""
        reply = await self._asked("GET", "models", b"")
        if not reply.is_success:
            raise Refused(reply.status, message_of(reply.content))
        try:
            return [str(each["id"]) for each in reply.json()["data"]]
        except (KeyError, TypeError):
            raise ValueError("no list of models") from None

    async def post(self, path: str, body: bytes) -> Reply:
        """The whole answer to a body of JSON, whatever its status."""
        return await self._asked("POST", path, body)

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[dict[str, Any]]:
        """The events of an answer, each the JSON that it holds, to the end that the server says or
        makes. Closing it closes the connection. Raises Refused before the first and BrokenStream
        for an event that is an error."""
        try:
            async with self._http.stream("POST", path, content=body, headers=_JSON) as response:
                if not response.is_success:
                    raise Refused(response.status_code, message_of(await response.aread()))
                async for data in events(response.aiter_bytes()):
                    if data == _DONE:
                        return
                    yield _event(data)
        except httpx2.TransportError as error:
            raise _unreachable(error) from None

    async def _asked(self, method: str, path: str, body: bytes) -> Reply:
        try:
            response = await self._http.request(method, path, content=body, headers=_JSON)
        except httpx2.TransportError as error:
            raise _unreachable(error) from None
        return Reply(response.status_code, dict(response.headers), response.content)


@asynccontextmanager
async def connect(
    url: str, *, timeout_s: float | None = None, connect_s: float = CONNECT_S, key: str = ""
) -> AsyncIterator[Client]:
    """The server at `url`, under which paths begin, while the context lasts. `timeout_s` is how
    long it may be silent, None for ever; `key` is sent as a bearer's where it is not empty.

    It holds as many connections as there are calls, and no proxy of the environment's.
    """
    async with httpx2.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else None,
        timeout=httpx2.Timeout(timeout_s, connect=connect_s, pool=None),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,
    ) as http:
        yield Client(http)


@asynccontextmanager
async def in_process(app: Asgi) -> AsyncIterator[Client]:
    """An application in this process, without a port."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(base_url=_IN_PROCESS, transport=transport) as http:
        yield Client(http)


async def events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The data of each server-sent event (WHATWG HTML, 9.2), however the bytes come.

    Lines end at LF or CRLF and nowhere else: JSON may hold other line separators as they are.
    """
    rest, data = b"", list[str]()
    async for piece in pieces:
        rest += piece
        *lines, rest = rest.replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif not text and data:
                yield "\n".join(data)
                data.clear()


def message_of(content: bytes) -> str:
    """What an answer's error says, in OpenAI's form or in another."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:_SHOWN]


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        raise BrokenStream("an event that is no JSON") from None
    if not isinstance(event, dict):
        raise BrokenStream("an event that is no JSON object")
    if error := event.get("error"):
        said = error.get("message") if isinstance(error, dict) else None
        raise BrokenStream(str(said or error))
    return event


def _unreachable(error: httpx2.TransportError) -> Unreachable:
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Unreachable("nothing answers at that address")
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable("it was silent for too long")
    return Unreachable("the connection broke")
