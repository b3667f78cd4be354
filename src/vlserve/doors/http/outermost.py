"""What holds for every answer, also for those that no router gives."""

import asyncio
import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlserve import request_ids
from vlserve.doors.http.errors import response_of
from vlserve.errors import stopping

_LOG: Final = logging.getLogger(__name__)


class Outermost:
    """Gives each request its id, which each answer carries. A failure of ours is logged with it,
    and a request that is cancelled, because the server stops, is told so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else ASGI has."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered: bytes | None = dict(scope["headers"]).get(request_ids.HEADER.encode())
        request_id = request_ids.begin(None if offered is None else offered.decode("latin-1"))
        has_begun = is_whole = False

        async def named(message: Message) -> None:
            nonlocal has_begun, is_whole
            is_whole = not message.get("more_body", False)
            if message["type"] == "http.response.start":
                has_begun, is_whole = True, False
                header = (request_ids.HEADER.encode(), request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self._app(scope, receive, named)
        except asyncio.CancelledError:
            if has_begun:
                raise
            await response_of(stopping())(scope, receive, named)
        except Exception as error:
            _LOG.error("request %s failed", request_id, exc_info=error)
            if not is_whole:  # then the server ends the connection
                raise
