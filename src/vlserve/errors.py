"""The one error that crosses rooms. It knows no transport: each door has a table of its own."""

from enum import StrEnum


class Code(StrEnum):
    """What went wrong, in the caller's terms."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ServeError(Exception):
    """A request that ends without its answer.

    `message` is a fixed text of ours that is safe to show to any caller: never another
    exception's text, a path or an address, but for what a compiler says of the caller's own guide.
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


def invalid(field: str, message: str) -> ServeError:
    """An INVALID_ARGUMENT that names the field at fault."""
    return ServeError(Code.INVALID_ARGUMENT, message, field=field)
