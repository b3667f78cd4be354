"""ServeError <-> HTTP status: the one table of them."""

from http import HTTPStatus
from typing import Final

from vlserve.errors import Code

STATUS: Final = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.CONTEXT_LENGTH_EXCEEDED: HTTPStatus.BAD_REQUEST,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_CODES: Final[dict[int, Code]] = {
    HTTPStatus.BAD_GATEWAY: Code.UNAVAILABLE,  # of a proxy
    **{status: code for code, status in STATUS.items()},
    HTTPStatus.BAD_REQUEST: Code.INVALID_ARGUMENT,  # of the two that have it
}


def code_of(status: int) -> Code | None:
    """What a status says went wrong, None where it says nothing that we know."""
    return _CODES.get(status)
