"""The lines of an OpenAI batch file, read when they are wanted."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vlserve.describe.errors import DescribeError

URLS: Final = ("/v1/chat/completions", "/v1/responses")
_FIELDS: Final = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class Line:
    """A request of the file: its custom_id is its `key`, a digest of the line its `stamp`."""

    key: str
    stamp: str
    url: str
    offset: int
    length: int


def read(path: Path) -> list[Line]:
    """The requests of a file, in order; empty lines are left out.

    Raises OSError, and DescribeError naming the line that is no request of such a file: all are
    looked at before the first is asked.
    """
    found: dict[str, Line] = {}
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                request = _request(line, f"{path}, line {number}")
                key = request["custom_id"]
                if key in found:
                    raise DescribeError(f"{path}, line {number}: custom_id {key!r} is there twice")
                stamp = hashlib.sha256(line.strip()).hexdigest()
                found[key] = Line(key, stamp, request["url"], offset, len(line))
            offset += len(line)
    if not found:
        raise DescribeError(f"{path} holds no requests")
    return list(found.values())


def body(path: Path, line: Line) -> bytes:
    """What the request sends, as JSON. Raises DescribeError where the file has changed."""
    with path.open("rb") as file:
        file.seek(line.offset)
        data = file.read(line.length)
    if hashlib.sha256(data.strip()).hexdigest() != line.stamp:
        raise DescribeError(f"{path} has changed while it was asked")
    return json.dumps(json.loads(data)["body"]).encode()


def _request(line: bytes, where: str) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise DescribeError(f"{where} is not JSON") from None
    if not isinstance(request, dict):
        raise DescribeError(f"{where} is no JSON object")
    for name in _FIELDS:
        if name not in request:
            raise DescribeError(f"{where}: {name} is missing")
    for name in request:
        if name not in _FIELDS:
            raise DescribeError(f"{where}: {name} is not a field: {', '.join(_FIELDS)} are")
    if not isinstance(request["custom_id"], str) or not request["custom_id"]:
        raise DescribeError(f"{where}: custom_id must be a text that is not empty")
    if request["method"] != "POST":
        raise DescribeError(f"{where}: method must be POST, not {request['method']!r}")
    if request["url"] not in URLS:
        raise DescribeError(f"{where}: url must be {' or '.join(URLS)}, not {request['url']!r}")
    if not isinstance(request["body"], dict):
        raise DescribeError(f"{where}: body must be a JSON object")
    if request["body"].get("stream"):
        raise DescribeError(f"{where}: body.stream: must be false, a file holds whole answers")
    return request
