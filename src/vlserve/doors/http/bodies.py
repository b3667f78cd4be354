"""A bound on what a request may send, and on the time that it may take to."""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlserve.doors.http.errors import status_response

# How long the rest of a body that was refused is thrown away, so that its sender gets to read why.
_LINGER_S: Final = 5.0


class BoundedBodies:
    """Hands a request to `app` when its body is there, of at most `max_bytes`.

    A longer one is refused with 413, at once where its header says so, and one that is not there
    within `timeout_s` with 408. The app finds the body in one piece.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else ASGI has."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._whole(scope, receive)
        except TimeoutError:
            await self._refuse(HTTPStatus.REQUEST_TIMEOUT, scope, receive, send)
        except _TooLarge:
            await self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, scope, receive, send)
        except _Gone:
            return
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _whole(self, scope: Scope, receive: Receive) -> list[Message]:
        """The body's one message, in a list out of which it can be taken."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > self._max_bytes:
            raise _TooLarge
        pieces: list[bytes] = []
        num_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            piece = message.get("body", b"")
            pieces.append(piece)
            num_bytes += len(piece)
            if num_bytes > self._max_bytes:
                raise _TooLarge
            if not message.get("more_body", False):
                return [{"type": "http.request", "body": b"".join(pieces), "more_body": False}]

    async def _refuse(self, status: HTTPStatus, scope: Scope, receive: Receive, send: Send) -> None:
        # What still comes must be taken in: the server waits for that before it ends an answer,
        # and a connection closed over unread bytes is reset, the answer lost.
        response = status_response(status)
        headers = response.raw_headers
        if scope["http_version"].startswith("1"):
            headers = [*headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._drained(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drained(self, receive: Receive) -> None:
        num_bytes = 0
        while num_bytes <= self._max_bytes:
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


class _TooLarge(Exception):  # noqa: N818
    pass


class _Gone(Exception):  # noqa: N818
    pass


def _replayed(body: list[Message], receive: Receive) -> Receive:
    """The body once, then what comes after it."""

    async def replay() -> Message:
        return body.pop() if body else await receive()

    return replay
