"""`vlserve batch`: an OpenAI batch file in, its output file out. The home of httpx2.

Each request goes to the HTTP door as it is, of a running server or of one that is opened in this
process without a port, so a row's body is what the door answers.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2

from vlserve import app
from vlserve.describe import batch_file, output
from vlserve.describe.batch_file import Line
from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import Done
from vlserve.describe.patience import Patience, answered
from vlserve.describe.sitting import Effort, Sitting
from vlserve.doors.http.status import code_of
from vlserve.errors import Code, ServeError
from vlserve.settings import Settings

_FINAL_CODES: Final = (Code.INVALID_ARGUMENT, Code.NOT_FOUND)  # no other answer would come
_CONNECT_S: Final = 1.0
_GRACE_S: Final = 10.0  # on top of the longest time of a request
_IN_PROCESS: Final = "http://in-process"


@dataclass(frozen=True, slots=True)
class Batch:
    """Which file of requests, of whom, and where the rows go. No `server`: as the settings say."""

    source: Path
    output: Path
    server: str | None


class _Refused(ServeError):  # noqa: N818
    """An answer that is not the last word on its request."""

    def __init__(self, code: Code, response: httpx2.Response) -> None:
        told_s = _retry_after_s(response.headers)
        super().__init__(code, f"status {response.status_code}", retry_after_s=told_s)
        self.response = response


async def batch(settings: Settings, job: Batch, effort: Effort) -> int:
    """Send all requests that have no row yet, then write the output. Returns the exit status.

    SIGINT and SIGTERM end it in order; the same job goes on from there. Raises DescribeError,
    OSError and what loading a model raises: also then what was answered is kept.
    """
    output.check(job.output, (output.JSONL,))
    lines = batch_file.read(job.source)
    sitting = Sitting(job.output, effort)
    return await sitting.to_the_end(_sent(settings, job, lines, sitting))


async def _sent(settings: Settings, job: Batch, lines: list[Line], sitting: Sitting) -> None:
    async with _connected(settings, job.server, sitting) as client:
        sender = _Sender(client, job.source, sitting.patience)
        await sitting.write(lines, sender.send, {"batch": 1}, {})


class _Sender:
    def __init__(self, client: httpx2.AsyncClient, source: Path, patience: Patience) -> None:
        self._client = client
        self._source = source
        self._patience = patience

    async def send(self, line: Line) -> Done:
        """The row of a request."""
        content = batch_file.body(self._source, line)
        try:
            response = await answered(partial(self._answer, line.url, content), self._patience)
        except _Refused as refused:
            response = refused.response
        row = _row(line, response)
        why = None if response.is_success else _said(row["response"]["body"])
        return Done(line.key, line.stamp, why, row)

    async def _answer(self, url: str, content: bytes) -> httpx2.Response:
        try:
            response = await self._client.post(
                url, content=content, headers={"content-type": "application/json"}
            )
        except httpx2.TransportError as error:
            raise ServeError(Code.UNAVAILABLE, type(error).__name__) from None
        code = code_of(response.status_code)
        if code is not None and code not in _FINAL_CODES:
            raise _Refused(code, response)
        if "application/json" not in response.headers.get("content-type", ""):
            raise DescribeError(f"{self._client.base_url} does not answer as OpenAI's API does")
        return response


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """What a server asks to wait, as exactly as it says it; None where it says nothing."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):  # Retry-After may be a date
            return float(headers[name]) * unit_s
    return None


def _row(line: Line, response: httpx2.Response) -> dict[str, Any]:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.key,
        "response": {
            "status_code": response.status_code,
            "request_id": uuid.uuid4().hex,
            "body": response.json(),
        },
        "error": None,
    }


def _said(body: Any) -> str:
    """Why, out of an error's body, which has OpenAI's form where the server is one of ours."""
    try:
        return str(body["error"]["message"])
    except (KeyError, TypeError):
        return "refused"


@asynccontextmanager
async def _connected(
    settings: Settings, server: str | None, sitting: Sitting
) -> AsyncIterator[httpx2.AsyncClient]:
    """The server at `server` (a URL, with or without /v1). Where that is None the one at http.host
    and http.port if it is ready, else the HTTP door over a hall opened here. Raises OSError where
    `server` is not ready, DescribeError where it is no such URL."""
    url = server or f"http://{settings.http.address(settings.http.port)}"
    if not url.startswith(("http://", "https://")):
        raise DescribeError(f"--server {server}: must begin with http:// or https://")
    url = url.rstrip("/").removesuffix("/v1")
    timeout = httpx2.Timeout(settings.limits.timeout_s + _GRACE_S, connect=_CONNECT_S, pool=None)
    async with httpx2.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as client:
        if await _is_ready(client):
            yield client
            return
    if server is not None:
        raise OSError(f"no server that serves answers at {server}")
    sitting.say(f"nothing serves at {url}: loading the model here")
    async with app.http_hall(settings) as asgi:
        transport = httpx2.ASGITransport(asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(base_url=_IN_PROCESS, transport=transport) as client:
            yield client


async def _is_ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/health/ready", timeout=_CONNECT_S)).is_success
    except httpx2.TransportError:
        return False
