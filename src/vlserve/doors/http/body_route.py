"""Routes by which the model is asked. FastAPI documents them; the body is read here."""

import json
from typing import Any, Final, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from vlserve.doors.http.errors import misfit, no_json, no_object
from vlserve.doors.http.forms import is_json

Kind = TypeVar("Kind", bound=BaseModel)
# Up to here, what the fast parser does not take is looked at by the one that takes more.
_SMALL_BYTES: Final = 1024 * 1024


class AskingRoute(APIRoute):
    """A route of one method, whose endpoint is called with its body, where it has one, and the
    request, and answers with a Response. Raises as `said` does."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. FastAPI's own way takes in the body twice and keeps it to the end."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405)
        request = Request(scope, receive, send)
        if self.body_field is None:
            response = await self.endpoint(request)
        else:
            kind: Any = self.body_field.field_info.annotation
            response = await self.endpoint(await said(kind, request), request)
        await response(scope, receive, send)


async def said(kind: type[Kind], request: Request) -> Kind:
    """The body as `kind`. Nothing else of it is kept.

    Raises ServeError(INVALID_ARGUMENT) naming the field at fault, None for what is no JSON object.
    """
    message = await request.receive()  # which has all of it: `BoundedBodies`
    if not is_json(request.scope):
        raise no_object()
    return fitted(kind, _value(message.pop("body")))


def fitted(kind: type[Kind], value: object) -> Kind:
    """What was read of JSON, as `kind`. Raises ServeError(INVALID_ARGUMENT) naming the field at
    fault."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise misfit(error.errors(include_url=False, include_input=False), value) from None


def _value(body: bytes) -> Any:
    """Of JSON. Large bodies hold half of a character, levels without end, or another encoding than
    UTF-8 for no JSON at all; small ones are read once more, to say what is wrong with which field.
    """
    if not body:
        raise no_object()
    try:
        return from_json(body)
    except ValueError:
        if len(body) > _SMALL_BYTES:
            raise no_json() from None
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise no_json(f"line {error.lineno}, column {error.colno} is not valid") from None
    except (ValueError, RecursionError):
        raise no_json("it must be in UTF-8, and not in too many levels") from None
