"""One HTTP/1.1 connection: uvicorn's protocol, with bounds on what a caller may leave open.

h11 parses, not httptools: to an HTTP/1.0 caller uvicorn answers through httptools in chunks, which
HTTP/1.0 does not have. In docs/architecture.md stands what that costs.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlserve import request_ids
from vlserve.doors.http.errors import status_response

HEADER_BYTES: Final = 32 * 1024
# From the first byte of a header to its last.
_HEADER_S: Final = 5.0
# How long a caller that was refused gets to read why: a connection that is closed over unread
# bytes is reset, and the answer lost.
_LINGER_S: Final = 2.0
_HEADER_END: Final = re.compile(rb"\n\r?\n")
_HTTP_2: Final = b"PRI * HTTP/2"  # as a client begins that knows beforehand
_CLOSE: Final = (b"connection", b"close")


class HttpProtocol(H11Protocol):
    """One request at a time. The connection ends where a header is too slow or too large, or is
    none, and after `timeout_keep_alive` without a request.

    A request that is sent before the one ahead of it is answered is dropped, and the connection
    closed after that answer, as HTTP/1.1 allows: a caller who leaves is seen while the answer is
    made, and callers that pipeline ask again.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._header_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._is_deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has connected and may wait with the first request as with the next."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn narrows it
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; nothing keeps its timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._header_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """What the caller sends."""
        if self._is_deaf:
            return
        if self._is_answering and self.conn.their_state is not h11.SEND_BODY:
            if data.strip(b"\r\n"):
                self._close_after_answer()
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            data = data.lstrip(b"\r\n")  # line ends between requests: h11 takes them for one
        if not self._is_answering and not self._is_header_bounded(data):
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_header()
        is_whole = self._is_answering and self.conn.their_state is not h11.SEND_BODY
        # A line end as well: h11 would read it as the next request, and that be answered 400.
        if is_whole and self.conn.trailing_data[0]:
            self._close_after_answer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request."""
        del msg  # uvicorn's words
        self._refuse(HTTPStatus.BAD_REQUEST, "this is not a request in HTTP/1.1")

    def shutdown(self) -> None:
        """End the connection, after the answer that is being made."""
        if self._linger_timer is not None:
            self.transport.abort()
        elif self._is_answering:
            self._close_after_answer()
        else:
            super().shutdown()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_header_bounded(self, data: bytes) -> bool:
        """Whether a header, or the part of it that is there, may be read."""
        begun = self.conn.trailing_data[0]
        if not begun and not data.strip(b"\r\n"):
            return False  # line ends between requests are no header
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(_HEADER_S, self.timeout_keep_alive_handler)
        header = begun + data
        if header.startswith(_HTTP_2):
            text = "this port speaks HTTP/1.1: HTTP/2 is spoken at the port of gRPC alone"
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, text)
            return False
        if len(header) > HEADER_BYTES and not _HEADER_END.search(header, 0, HEADER_BYTES):
            text = f"the header is larger than {HEADER_BYTES // 1024} KiB"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
            return False
        return True

    def _end_header(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _close_after_answer(self) -> None:
        self._is_deaf = True
        self.cycle.keep_alive = False
        self.cycle.default_headers = [*self.cycle.default_headers, _CLOSE]

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer, where no answer has begun, and close."""
        self._is_deaf = True
        self._end_header()
        self._unset_keepalive_if_required()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.write(_refusal(status, text))
        if self._is_answering:  # for nobody: no more of its body comes
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()


def _refusal(status: HTTPStatus, text: str) -> bytes:
    """A whole answer to what never came to the app."""
    request_id = request_ids.begin(None)
    response = status_response(status, text)
    headers = [*response.raw_headers, (request_ids.HEADER.encode(), request_id.encode()), _CLOSE]
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
