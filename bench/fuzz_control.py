"""The HTTP door with faults planted in it, for `bench.fuzz_http --control`: they must be found."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

from bench.doors import free_port, listens
from vlserve import app
from vlserve.app import Asgi
from vlserve.settings import EngineSettings, Settings

# By operation: each which answer to it is another one, its status, and its body.
PLANTED: Final[dict[str, tuple[int, int, dict[str, str]]]] = {
    "POST /v1/chat/completions": (20, 500, {"error": "planted"}),  # a server error
    "POST /process_image": (20, 418, {"error": "planted"}),  # no status of the document
    "GET /v1/models": (1, 200, {"object": "list", "data": "planted"}),  # nor such a body
}
_HOST: Final = "127.0.0.1"
_POLL_S: Final = 0.05


@asynccontextmanager
async def faulty() -> AsyncIterator[str]:
    """Where it listens while the context lasts."""
    port = free_port()
    async with app.open_http_app(Settings(engine=EngineSettings(kind="echo"))) as right:
        wrong: Any = _planted(right)
        server = uvicorn.Server(
            uvicorn.Config(
                wrong,
                interface="asgi3",
                host=_HOST,
                port=port,
                lifespan="off",
                log_config=None,
                log_level="critical",
            )
        )
        serving = asyncio.create_task(server.serve())
        while not listens(port):  # noqa: ASYNC110  uvicorn tells nobody
            await asyncio.sleep(_POLL_S)
        try:
            yield f"{_HOST}:{port}"
        finally:
            server.should_exit = True
            await serving


def _planted(right: Asgi) -> Asgi:
    num_asked = dict.fromkeys(PLANTED, 0)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        operation = f"{scope.get('method')} {scope.get('path')}"
        each, status, body = PLANTED.get(operation, (0, 0, {}))
        if each:
            num_asked[operation] += 1
        if not each or num_asked[operation] % each:
            await right(scope, receive, send)
            return
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return answer
