"""Forms with files in them, as a body."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import FormData
from starlette.requests import Request

from vlserve.errors import invalid

FORM: Final = "multipart/form-data"


def media_type(request: Request) -> str:
    """What the body is said to be, without parameters: "" where nothing is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def refuse_unknown(form: FormData, known: Collection[str]) -> None:
    """Raises ServeError(INVALID_ARGUMENT) naming a field that is none of `known`."""
    for name in form:
        if name not in known:
            raise invalid(name, "is not served here")
