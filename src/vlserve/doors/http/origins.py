"""Pages of other origins: which may ask, and what the others are told."""

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from vlserve.doors.http.errors import status_response
from vlserve.request_ids import HEADER

# What a page of another origin may ask, and read of an answer.
_METHODS: Final = ("GET", "HEAD", "POST", "DELETE")
_EXPOSED: Final = (HEADER, "retry-after", "retry-after-ms", "server-timing")


class AllowedOrigins(CORSMiddleware):
    """Lets pages of `origins` ask, and refuses those of others in the form of every error."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser is told before a page of another origin asks."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == HTTPStatus.OK:
            return answer
        headers = {k: v for k, v in answer.headers.items() if not k.startswith("content-")}
        return status_response(HTTPStatus.BAD_REQUEST, self._why(request_headers), headers)

    def _why(self, request_headers: Headers) -> str:
        origin = request_headers["origin"]
        if not self.is_allowed_origin(origin):
            allowed = ", ".join(self.allow_origins)
            return (
                f"pages of the origin {origin!r} may not ask: allowed are {allowed}"
                " (http.allowed_origins)"
            )
        method = request_headers["access-control-request-method"]
        if method not in self.allow_methods:
            return f"a page may ask by {', '.join(self.allow_methods)}, not by {method!r}"
        return "Access-Control-Request-Private-Network is not allowed: ask without it"
