"""The one error that crosses rooms. It knows no transport: each door has a table of its own."""

from enum import StrEnum
from typing import Final

FAILED: Final = "the server failed to answer this request: its log says why, under the request's id"
NO_DATA: Final = "holds no data: send the bytes of a picture or a video"
_STOPPING_RETRY_S: Final = 1.0
MAX_QUOTED: Final = 64  # characters of a caller's own text that an error repeats


class Code(StrEnum):
    """What went wrong, in the caller's terms."""

    INVALID_ARGUMENT = "invalid_argument"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    NOT_FOUND = "not_found"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ServeError(Exception):
    """A request that ends without its answer.

    `message` is a text of ours that is safe to show to any caller: never another exception's text,
    a path or an address, but for what a compiler says of the caller's own guide. It names the
    caller's value (`quoted` where that is a text), what is allowed, the setting that says so, and
    what to do.
    `field` names the caller's field at fault, as the caller wrote it. `retry_after_s` is set on
    OVERLOADED and UNAVAILABLE only.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def quoted(text: str) -> str:
    """A caller's own text as a message repeats it: in quotes, MAX_QUOTED characters at most, and
    U+FFFD for each that cannot be printed."""
    shown = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_QUOTED]
    )
    return f"'{shown}…'" if len(text) > MAX_QUOTED else f"'{shown}'"


def invalid(field: str, message: str) -> ServeError:
    """An INVALID_ARGUMENT that names the field at fault."""
    return ServeError(Code.INVALID_ARGUMENT, message, field=field)


def failed() -> ServeError:
    """An INTERNAL: a fault of ours, which the log has."""
    return ServeError(Code.INTERNAL, FAILED)


def stopping() -> ServeError:
    """An UNAVAILABLE of a server that takes no more requests."""
    message = "the server is stopping: ask again when it has started"
    return ServeError(Code.UNAVAILABLE, message, retry_after_s=_STOPPING_RETRY_S)


def too_long(max_tokens: int, num_tokens: int, *, is_exact: bool = True) -> ServeError:
    """A CONTEXT_LENGTH_EXCEEDED of a prompt of `num_tokens`, or of more where that is not exact,
    in a context of `max_tokens`."""
    return ServeError(
        Code.CONTEXT_LENGTH_EXCEEDED,
        f"maximum context length is {max_tokens} tokens, the request has"
        f" {'' if is_exact else 'at least '}{num_tokens}, and its answer needs one: shorten its"
        " texts, or send fewer or smaller pictures",
        field="messages",
    )
