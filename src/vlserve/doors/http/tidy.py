"""What probes and proxies send in place of what the routes know: HEAD, and paths with a slash too
many."""

import re
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES: Final = re.compile("/{2,}")


class TidyRequests:
    """Hands a request to `app` by the path that the routes know: each run of slashes is one, and
    none is at the end. HEAD is answered as GET is, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else ASGI has."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        if scope["method"] == "HEAD":
            await self._app({**scope, "path": path, "method": "GET"}, receive, _bodiless(send))
        else:
            await self._app({**scope, "path": path}, receive, send)


def _bodiless(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sent
