"""What a body is said to be; and forms with files in them, as a body."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import FormData, Headers

from vlserve.errors import invalid

FORM: Final = "multipart/form-data"


def media_type(headers: Headers) -> str:
    """What the body is said to be, without parameters: "" where nothing is said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(headers: Headers) -> bool:
    """Whether the body is said to be JSON, of whatever kind."""
    main, _, kind = media_type(headers).partition("/")
    return main == "application" and (kind == "json" or kind.endswith("+json"))


def refuse_unknown(form: FormData, known: Collection[str]) -> None:
    """Raises ServeError(INVALID_ARGUMENT) naming a field that is none of `known`."""
    for name in form:
        if name not in known:
            raise invalid(name, "is not served here")
