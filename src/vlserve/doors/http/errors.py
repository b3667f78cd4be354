"""What went wrong -> HTTP: the status, one body for all, and the headers that clients act on."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from vlserve import request_ids
from vlserve.doors.http.body_model import EITHER_OBJECT
from vlserve.doors.http.status import STATUS
from vlserve.errors import Code, ServeError, failed, invalid
from vlserve.words import TYPES, sentence

_LOG: Final = logging.getLogger(__name__)

# The classes of error that clients of OpenAI's API tell apart; every other 4xx is the first.
_BAD_REQUEST_TYPE: Final = "invalid_request_error"
_TYPES: Final = {
    HTTPStatus.REQUEST_TIMEOUT: "timeout_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}
_SHOWN: Final = 200  # characters of what the caller wrote


class ErrorDetail(BaseModel):
    """What went wrong. `param` is the path of the caller's field at fault, as the caller wrote it.

    `code` says more than `type` where there is more to say. `request_id` is that of the answer's
    `x-request-id`, and of the server's log.
    """

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


def refusals(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may end with these, for the OpenAPI document."""
    return {int(status): {"model": ErrorBody, "description": status.phrase} for status in statuses}


# What every call that asks the model may end with.
CALL_REFUSALS: Final = refusals(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


def body_of(error: Exception) -> ErrorBody:
    """The body for whatever was raised. What is no ServeError is a fault of ours: it is logged,
    and nothing of it is said."""
    if not isinstance(error, ServeError):
        _LOG.error("request %s failed", request_ids.current(), exc_info=error)
        error = failed()
    status = STATUS[error.code]
    code = "model_not_found" if (error.code, error.field) == (Code.NOT_FOUND, "model") else None
    kind = _TYPES.get(status, _BAD_REQUEST_TYPE)
    return _body(str(error), kind, error.field, code or error.code.value)


def response_of(error: ServeError) -> Response:
    """The whole answer for an error. With a time to come again it has Retry-After, in whole
    seconds as HTTP wants it, and `retry-after-ms`, by which clients that know it keep apart."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return _rendered(STATUS[error.code], body_of(error), headers)


def status_response(
    status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The whole answer for what HTTP itself refuses."""
    kind = _TYPES.get(status, _BAD_REQUEST_TYPE)
    return _rendered(status, _body(text, kind, None, status.name.lower()), headers or {})


def misfit(errors: Sequence[Any], body: object) -> ServeError:
    """The first of what pydantic found wrong with a body, by the path of the caller's field."""
    if errors[0]["type"] == "json_invalid":
        return no_json()
    # Of a list that may be a text as well, the item at fault, and not that it is no text.
    field = _found(_location(errors[0]), body)[0]
    inside = (e for e in errors if field and _found(_location(e), body)[0].startswith(f"{field}["))
    first = next(inside, errors[0])
    errors = errors[errors.index(first) :]
    kind, location = first["type"], _location(first)
    path, value = _found(location, body, is_missing=kind == "missing")
    if kind.startswith("union_tag_"):
        path = f"{path}.type".removeprefix(".")
        value = value.get("type") if isinstance(value, dict) else value
    elif location and location[-1] == EITHER_OBJECT:  # of a text or something else
        # What is neither; a list that is too long is no text that is missing.
        either = ["string_type", kind] if kind in TYPES else [kind]
        return invalid(path, sentence(either, first.get("ctx", {}), value))
    # A union has an error for each of its members, one after the other.
    same = itertools.takewhile(lambda error: _found(_location(error), body)[0] == path, errors)
    kinds = [kind, *(error["type"] for error in list(same)[1:])]
    said = sentence(kinds, first.get("ctx", {}), value)
    if not path:
        too_many = kind == "value_error"  # an object, of more fields than are looked at
        return ServeError(Code.INVALID_ARGUMENT, f"the body {said}") if too_many else no_object()
    return invalid(path, said)


def _location(error: Mapping[str, Any]) -> Sequence[str | int]:
    location: Sequence[str | int] = error["loc"]
    return location[1:] if location and location[0] == "body" else location


def no_json(why: str = "") -> ServeError:
    """Of a body that cannot be read, and `why` where that is known."""
    return ServeError(Code.INVALID_ARGUMENT, f"the body is not JSON{why and f': {why}'}")


def no_object() -> ServeError:
    """Of a body that is something else."""
    message = "the body must be a JSON object, sent as application/json"
    return ServeError(Code.INVALID_ARGUMENT, message)


def handle_errors(app: FastAPI) -> None:
    """Every error of the app has the one body."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServeError)  # noqa: S101  registered for it
        return response_of(error)

    async def misfitting(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  registered for it
        return response_of(misfit(error.errors(), error.body))

    async def by_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  registered for it
        status, headers = HTTPStatus(error.status_code), error.headers
        method, path = (request.scope[name][:_SHOWN] for name in ("method", "path"))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(sorted(_methods(app, request)))
            text = f"{path} has no method {method}: it has {allowed}"
            return status_response(status, text, {"allow": allowed})
        if status is HTTPStatus.NOT_FOUND:
            text = f"there is nothing at {path}: /docs lists what this server answers"
        else:
            text = "the form cannot be read: it must be multipart/form-data, whole and with its"
            text += " boundary in Content-Type"
        return status_response(status, text, headers)

    async def crashed(_: Request, error: Exception) -> Response:
        # Starlette raises it once more, so that it is logged outside: not twice.
        del error
        return response_of(failed())

    app.add_exception_handler(ServeError, refused)
    app.add_exception_handler(RequestValidationError, misfitting)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(Exception, crashed)


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Those of a path, of which each has a route of its own and knows none of the others. HEAD is
    wherever GET is."""
    methods = {
        method
        for route in app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return methods | ({"HEAD"} if "GET" in methods else set())


def _body(message: str, kind: str, param: str | None, code: str) -> ErrorBody:
    detail = ErrorDetail(
        message=message, type=kind, param=param, code=code, request_id=request_ids.current()
    )
    return ErrorBody(error=detail)


def _rendered(status: HTTPStatus, body: ErrorBody, headers: Mapping[str, str]) -> Response:
    return Response(
        body.model_dump_json(), status, headers=dict(headers), media_type="application/json"
    )


def _found(
    location: Sequence[str | int], body: object, *, is_missing: bool = False
) -> tuple[str, object]:
    """`messages[0].content` out of pydantic's location, and what is there. The location also holds
    the names of a union's members: what is not in the body is none of the caller's."""
    path, here = "", body
    is_tagged = False  # a union's member is named once, before what is in it
    for i, step in enumerate(location):
        is_last = i + 1 == len(location)
        if isinstance(here, list) and isinstance(step, int) and step < len(here):
            path, here = f"{path}[{step}]", here[step]
        elif isinstance(here, dict) and step == here.get("type") and not (is_tagged or is_last):
            is_tagged = True
            continue
        elif isinstance(here, dict) and step in here:
            path, here = f"{path}.{step}", here[step]
        elif is_missing and is_last:
            path = f"{path}.{step}"
        else:
            continue
        is_tagged = False
    return path.removeprefix("."), here
