"""The HTTP door: listens, and serves what the doors that speak HTTP have to offer."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from vlserve.doors.http import http1, http2
from vlserve.doors.http.application import application
from vlserve.doors.http.health import Readiness
from vlserve.service.service import Service
from vlserve.settings import HttpSettings, LimitSettings

Router = APIRouter  # what each door that speaks HTTP makes with its `routes`

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 1024
# For the last bytes of answers that have ended.
_CLOSE_GRACE_S: Final = 1.0
# What a slow reader gets on top of the time that an answer may take.
_READ_GRACE_S: Final = 5.0
_HEADER_S: Final = 5.0
_HEADER_BYTES: Final = 32 * 1024
# Dead callers are found, whose work then stops.
_PROBES: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)


class HttpDoor:
    """Listens from `start` to `stop`. Health says ready from `announce(True)` on."""

    def __init__(
        self,
        service: Service,
        routers: Sequence[Router],
        limits: LimitSettings,
        settings: HttpSettings,
    ) -> None:
        self._limits = limits
        self._settings = settings
        self._readiness = Readiness()
        self._app = application(service, routers, self._readiness, limits)
        self._port = 0
        self._closing = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        """`host:port`, with the port that was really taken."""
        return self._settings.address(self._port)

    async def start(self) -> None:
        """Listen, not ready yet. Raises OSError where the address cannot be had."""
        self._port = self._settings.port
        try:
            listening = _listening(self._settings.host, self._port, self._unread_s())
        except OSError:
            raise OSError(f"cannot listen on {self.address}: is it in use?") from None
        self._port = listening.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.backlog = _BACKLOG
        config.errorlog = _LOG
        config.graceful_timeout = 2 * _CLOSE_GRACE_S
        config.include_server_header = False
        config.keep_alive_timeout = _HEADER_S
        config.h11_max_incomplete_size = _HEADER_BYTES
        config.h2_max_header_list_size = _HEADER_BYTES
        http1.mend()
        http2.mend()
        app: Any = self._answer  # hypercorn has its own types for what ASGI says
        self._serving = asyncio.create_task(serve(app, config, shutdown_trigger=self._closing.wait))

    async def announce(self, *, is_serving: bool) -> None:
        """What health says from now on."""
        self._readiness.is_serving = is_serving

    async def stop(self) -> None:
        """Close the connections. Calls that still run are cut off after a second."""
        self._closing.set()
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_GRACE_S)
        for task in self._running:
            task.cancel()
        if self._serving is not None:
            await self._serving

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, in a task of its own, or the server's own beginning and end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  this is a coroutine
        if scope["type"] != "lifespan":
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await self._app(scope, receive, send)

    def _unread_s(self) -> float:
        return self._limits.timeout_s + _READ_GRACE_S


def _listening(host: str, port: int, unread_s: float) -> socket.socket:
    """A socket that listens. Its connections end when their peer is dead, or takes nothing of
    what is sent for `unread_s`."""
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for level, name, value in _PROBES:
            if hasattr(socket, name):
                listening.setsockopt(level, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            unread_ms = round(unread_s * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
