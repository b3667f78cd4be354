"""The HTTP door: listens, and serves what the doors that speak HTTP have to offer."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

from fastapi import APIRouter
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from vlserve.doors.http.application import application
from vlserve.doors.http.health import Readiness
from vlserve.doors.http.protocol import HEADER_BYTES, HttpProtocol
from vlserve.service.service import Service
from vlserve.settings import HttpSettings, LimitSettings

Router = APIRouter  # what each door that speaks HTTP makes with its `routes`

_BACKLOG: Final = 1024
# For the last bytes of answers that have ended.
_CLOSE_GRACE_S: Final = 1.0
_POLL_S: Final = 0.005
# What a slow reader gets on top of the time that an answer may take.
_READ_GRACE_S: Final = 5.0
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
        self._app = application(service, routers, self._readiness, limits, settings)
        self._port = 0
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._telling_date: asyncio.Task[None] | None = None
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
        config = self._config()
        self._telling_date = asyncio.create_task(_tell_date(self._state))

        def connection() -> asyncio.Protocol:
            return HttpProtocol(config=config, server_state=self._state, app_state={})

        # Not by uvicorn's own server, which takes the signals that are the app's.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connection, sock=listening, backlog=_BACKLOG)

    async def announce(self, *, is_serving: bool) -> None:
        """What health says from now on."""
        self._readiness.is_serving = is_serving

    async def stop(self) -> None:
        """Close the connections. Calls that still run are cut off after a second."""
        if self._server is None or self._telling_date is None:
            return
        self._server.close()
        self._telling_date.cancel()
        connections = self._state.connections
        for connection in list(connections):
            connection.shutdown()
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_GRACE_S)
        for task in self._running:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_GRACE_S):
                while connections or self._running:  # noqa: ASYNC110  they tell nobody
                    await asyncio.sleep(_POLL_S)
        for connection in list(connections):
            connection.transport.abort()

    def _config(self) -> Config:
        config = Config(
            self._answer,
            interface="asgi3",
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            # What fails is logged where its request is known.
            log_level=logging.CRITICAL,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_keep_alive=self._settings.keep_alive_s,  # type: ignore[arg-type]  # or parts
        )
        config.load()
        return config

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, in a task of its own."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  this is a coroutine
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await self._app(scope, receive, send)

    def _unread_s(self) -> float:
        return self._limits.timeout_s + _READ_GRACE_S


async def _tell_date(state: ServerState) -> None:
    """Each answer's `date`, as uvicorn's own server has it."""
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)


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
