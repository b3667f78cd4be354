"""What a body is said to be; and forms with files in them, as a body."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Scope

from vlserve.errors import Code, ServeError, invalid

FORM: Final = "multipart/form-data"
NOT_A_FILE: Final = "must be a file: give the part a filename"
# What may come is a field; a client of OpenAI's sends two for `expires_after`, which is refused.
_MAX_FIELDS: Final = 3


def media_type(scope: Scope) -> str:
    """What a request's body is said to be, without parameters: "" where nothing is said."""
    said: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return said.partition(b";")[0].strip().lower().decode("latin-1")


def is_json(scope: Scope) -> bool:
    """Whether a request's body is said to be JSON, of whatever kind."""
    main, _, kind = media_type(scope).partition("/")
    return main == "application" and (kind == "json" or kind.endswith("+json"))


@asynccontextmanager
async def form_of(request: Request, known: Collection[str]) -> AsyncIterator[FormData]:
    """The form that a body is, with one file at most, open while the context lasts.

    Raises ServeError(INVALID_ARGUMENT) for one in another encoding than UTF-8, and naming a field
    that is none of `known` or there twice.
    """
    _, parameters = parse_options_header(request.headers["content-type"])
    # Python knows encodings that raise errors of their own, or make text that is no Unicode.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise ServeError(
            Code.INVALID_ARGUMENT,
            "a form must be in UTF-8",
        )
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
        seen: set[str] = set()
        for name, _ in form.multi_items():
            if name not in known:
                raise invalid(name, f"is no field of this form: it has {', '.join(known)}")
            if name in seen:
                raise invalid(name, "is there twice")
            seen.add(name)
        yield form
