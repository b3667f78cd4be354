"""The name under which a request is found again: in its answer, in an error, and in the log."""

import re
import uuid
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"  # over HTTP, and in the metadata of gRPC
MAX_LENGTH: Final = 128
# What no log, header or shell reads as something else.
_SAFE: Final = re.compile(rf"[A-Za-z0-9._~:/+=@-]{{1,{MAX_LENGTH}}}")
_CURRENT: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(offered: str | None) -> str:
    """The id of the request that this task answers from now on: what the caller `offered` where it
    is 1 to MAX_LENGTH safe characters, else a new one."""
    is_safe = offered is not None and _SAFE.fullmatch(offered)
    request_id = offered if offered is not None and is_safe else f"req_{uuid.uuid4().hex}"
    _CURRENT.set(request_id)
    return request_id


def current() -> str | None:
    """The id of the request that this task answers, None outside of one."""
    return _CURRENT.get()
