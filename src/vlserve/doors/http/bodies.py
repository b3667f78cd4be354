"""Bounds on what requests may send, each and all together, and on the time that one may take to."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlserve.budget import Claim
from vlserve.doors.http.encodings import ACCEPTED, Decoding, UnknownEncoding
from vlserve.doors.http.errors import response_of, status_response
from vlserve.doors.http.forms import is_json
from vlserve.doors.http.json_cost import JsonCost
from vlserve.errors import ServeError
from vlserve.service.service import Service
from vlserve.settings import MIB, LimitSettings

# How long the rest of a body that was refused is thrown away, so that its sender gets to read why.
_LINGER_S: Final = 5.0
# Up to here a body is read before it is known whether there is a place: then its connection may
# stay open.
_SMALL_BYTES: Final = 64 * 1024


class BoundedBodies:
    """Hands a request to `app` when its body is there, of at most `limits.max_message_mib`.

    A longer one is refused with 413, at once where its header says so, and one that is not there
    within `limits.timeout_s` with 408; with 429 what does not fit beside the bodies of the other
    requests that are not answered yet. So is, before it is read, a large body at one of the paths
    of `asking` while the service is full. JSON that takes long to read is refused with 400. The
    app finds the body in one piece where it is JSON, and as it was before it was compressed: the
    bounds are those of what comes out; what cannot be undone is refused with 415.
    """

    def __init__(
        self, app: ASGIApp, *, service: Service, limits: LimitSettings, asking: Collection[str]
    ) -> None:
        self._app = app
        self._service = service
        self._max_bytes = limits.max_message_mib * MIB
        self._timeout_s = limits.timeout_s
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else ASGI has."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._service.body() as claim:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._whole(scope, receive, claim)
            except TimeoutError:
                text = f"the body did not arrive within {self._timeout_s:g} s (limits.timeout_s)"
                refusal = status_response(HTTPStatus.REQUEST_TIMEOUT, text)
            except _TooLarge:
                mib = self._max_bytes // MIB
                text = f"the body is larger than {mib} MiB (limits.max_message_mib)"
                refusal = status_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            except UnknownEncoding as error:
                text = f"the body is encoded as {str(error)!r} (Content-Encoding): send it"
                text += " uncompressed, or compressed once by gzip or deflate"
                headers = {"accept-encoding": ACCEPTED}
                refusal = status_response(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text, headers)
            except ServeError as error:
                refusal = response_of(error)
            except _Gone:
                return
            else:
                await self._app(_decoded(scope), _replayed(body, receive), send)
                return
        await self._refuse(refusal, scope, receive, send)

    async def _whole(self, scope: Scope, receive: Receive, claim: Claim) -> list[Message]:
        """The body's messages, the first one last, in a list out of which they can be taken."""
        self._look_ahead(scope)
        encoding = _encoding(scope)
        decoding = Decoding(encoding) if encoding else None
        cost = JsonCost() if is_json(scope) else None
        num_received = 0
        pieces: list[bytes] = []
        whole = bytearray()  # grows without being copied, which in the end would take long
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            received = message.get("body", b"")
            num_received += len(received)
            for piece in decoding.pieces(received) if decoding else (received,):
                if max(num_received, claim.num + len(piece)) > self._max_bytes:
                    raise _TooLarge
                claim.grow(len(piece))
                if cost is None:
                    pieces.append(piece)
                else:
                    cost.add(piece)
                    whole += piece
                if decoding:
                    await asyncio.sleep(0)  # others are served in between
            if not message.get("more_body", False):
                if decoding:
                    decoding.end()
                return _messages([whole] if cost else pieces)

    def _look_ahead(self, scope: Scope) -> None:
        """What can be told from the header."""
        declared = dict(scope["headers"]).get(b"content-length")
        if declared is not None and int(declared) > self._max_bytes:
            raise _TooLarge
        is_small = declared is not None and int(declared) <= _SMALL_BYTES
        if scope["method"] == "POST" and not is_small and scope["path"] in self._asking:
            self._service.expect()

    async def _refuse(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        # What still comes must be taken in: the server waits for that before it ends an answer,
        # and a connection closed over unread bytes is reset, the answer lost.
        headers = response.raw_headers
        if scope["http_version"].startswith("1"):
            headers = [*headers, (b"connection", b"close")]
        start = {"status": response.status_code, "headers": headers}
        await send({"type": "http.response.start", **start})
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


def _encoding(scope: Scope) -> str:
    """What a body is encoded as, "" where it is as it is."""
    given = [value for name, value in scope["headers"] if name == b"content-encoding"]
    encoding = b", ".join(given).strip().decode("latin-1")
    return "" if encoding.lower() == "identity" else encoding


def _decoded(scope: Scope) -> Scope:
    """What is true of a body once it is undone."""
    if not _encoding(scope):
        return scope
    told = (b"content-encoding", b"content-length")
    return {**scope, "headers": [each for each in scope["headers"] if each[0] not in told]}


def _messages(pieces: list[bytes] | list[bytearray]) -> list[Message]:
    last = len(pieces) - 1
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": i < last}
        for i, piece in enumerate(pieces)
    ]
    return messages[::-1]


def _replayed(body: list[Message], receive: Receive) -> Receive:
    """The body once, then what comes after it."""

    async def replay() -> Message:
        return body.pop() if body else await receive()

    return replay
