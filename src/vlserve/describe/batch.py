"""`vlserve batch`: an OpenAI batch file in, its output file out.

Each request goes to the HTTP door as it is, of a running server or of one that is opened in this
process without a port, so a row's body is what the door answers.
"""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from vlserve import app, request_ids
from vlserve.describe import batch_file, output
from vlserve.describe.address import http_url
from vlserve.describe.batch_file import Line
from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import Done
from vlserve.describe.patience import Patience, ask_patiently
from vlserve.describe.sitting import Effort, Sitting
from vlserve.doors.http.status import code_of
from vlserve.engines.upstream.client import Client, Reply, Unreachable, connect, in_process
from vlserve.errors import Code, ServeError
from vlserve.settings import Settings

_FINAL_CODES: Final = (
    Code.INVALID_ARGUMENT,
    Code.CONTEXT_LENGTH_EXCEEDED,
    Code.NOT_FOUND,
)  # no other answer would come
_CONNECT_S: Final = 1.0
_GRACE_S: Final = 10.0  # on top of the longest time of a request


@dataclass(frozen=True, slots=True)
class Batch:
    """Which file of requests, of whom, and where the rows go. No `server`: as the settings say."""

    source: Path
    output: Path
    server: str | None


class _Refused(ServeError):  # noqa: N818
    """An answer that is not the last word on its request."""

    def __init__(self, code: Code, reply: Reply) -> None:
        told_s = _retry_after_s(reply.headers)
        super().__init__(code, f"status {reply.status}", retry_after_s=told_s)
        self.reply = reply


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
    def __init__(self, client: Client, source: Path, patience: Patience) -> None:
        self._client = client
        self._source = source
        self._patience = patience

    async def send(self, line: Line) -> Done:
        """The row of a request."""
        content = batch_file.body(self._source, line)
        try:
            reply = await ask_patiently(partial(self._answer, line.url, content), self._patience)
        except _Refused as refused:
            reply = refused.reply
        row = _row(line, reply)
        why = None if reply.is_success else _said(row["response"]["body"])
        return Done(line.key, line.stamp, why, row)

    async def _answer(self, url: str, content: bytes) -> Reply:
        try:
            reply = await self._client.post(url, content)
        except Unreachable as error:
            raise ServeError(Code.UNAVAILABLE, str(error)) from None
        code = code_of(reply.status)
        if code is not None and code not in _FINAL_CODES:
            raise _Refused(code, reply)
        if not reply.is_json:
            raise DescribeError(f"{self._client.url} does not answer as OpenAI's API does")
        return reply


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What a server asks to wait, as exactly as it says it; None where it says nothing."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):  # Retry-After may be a date
            return float(headers[name]) * unit_s
    return None


def _row(line: Line, reply: Reply) -> dict[str, Any]:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.key,
        "response": {
            "status_code": reply.status,
            "request_id": reply.headers.get(request_ids.HEADER) or uuid.uuid4().hex,
            "body": reply.json(),
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
) -> AsyncIterator[Client]:
    """The server at `server`, HOST:PORT or a URL, with or without /v1. Where that is None the one
    at http.host and http.port if it is ready, else the HTTP door over a service opened here. Raises
    OSError where `server` is not ready, DescribeError where it is no such URL."""
    url = http_url(server or settings.http.address(settings.http.port))
    timeout_s = settings.limits.timeout_s + _GRACE_S
    async with connect(url, timeout_s=timeout_s, connect_s=_CONNECT_S) as client:
        if await client.is_ready(_CONNECT_S):
            yield client
            return
    if server is not None:
        raise OSError(f"no server that serves answers at {server}")
    sitting.say(f"nothing serves at {url}: loading the model here")
    async with app.open_http_app(settings) as asgi, in_process(asgi) as client:
        yield client
