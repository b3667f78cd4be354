"""A small door of OpenAI's chat completions for whoever answers from a queue.

Streaming only, a thread a connection: enough to give plain `generate`, and libraries that have no
server of their own, the same way in as everyone else.
"""

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

PATH: Final = "/v1/chat/completions"
MODEL: Final = "peer"


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str = "length"


@dataclass(frozen=True, slots=True)
class Refused:
    """Instead of an answer, or in its middle."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. Whoever answers it puts texts into `outbox`, at last Done or Refused."""

    body: dict[str, Any]
    outbox: "queue.SimpleQueue[str | Done | Refused]" = field(default_factory=queue.SimpleQueue)

    @property
    def max_tokens(self) -> int:
        """The longest answer."""
        return int(self.body["max_tokens"])


Inbox = queue.SimpleQueue[Asked]


def serve(port: int, answer: Callable[[Inbox], None]) -> None:
    """Serve on loopback for ever; `answer` takes requests out of the inbox, in this thread."""
    inbox: Inbox = queue.SimpleQueue()
    with door(inbox, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answer(inbox)


def door(inbox: Inbox, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback that puts what it is asked into the inbox. `serve_forever` runs it."""

    class Handler(_Handler):
        asked = inbox

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    return Server(("127.0.0.1", port), Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Inbox

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self._whole(HTTPStatus.NOT_FOUND, {"error": {"message": "no such path"}})
            return
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": MODEL}
        self._whole(HTTPStatus.OK, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        asked = Asked(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.asked.put(asked)
        item = asked.outbox.get()
        if isinstance(item, Refused):
            self._whole(item.status, {"error": {"message": item.message}})
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        while isinstance(item, str):
            self._event(_chunk({"content": item}))
            item = asked.outbox.get()
        if isinstance(item, Refused):
            self._event({"error": {"message": item.message}})
            return
        self._event(_chunk({}, item.finish_reason))
        total = item.prompt_tokens + item.completion_tokens
        usage = {
            "prompt_tokens": item.prompt_tokens,
            "completion_tokens": item.completion_tokens,
            "total_tokens": total,
        }
        self._event({**_chunk({}), "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _whole(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Says nothing: standard error is for what went wrong."""


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "peer",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
    }
