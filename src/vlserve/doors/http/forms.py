"""What a body is said to be; and forms with files in them, as a body."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import FormData
from starlette.types import Scope

from vlserve.errors import invalid

FORM: Final = "multipart/form-data"


def media_type(scope: Scope) -> str:
    """What a request's body is said to be, without parameters: "" where nothing is said."""
    said: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return said.partition(b";")[0].strip().lower().decode("latin-1")


def is_json(scope: Scope) -> bool:
    """Whether a request's body is said to be JSON, of whatever kind."""
    main, _, kind = media_type(scope).partition("/")
    return main == "application" and (kind == "json" or kind.endswith("+json"))


def refuse_unknown(form: FormData, known: Collection[str]) -> None:
    """Raises ServeError(INVALID_ARGUMENT) naming a field that is none of `known`."""
    for name in form:
        if name not in known:
            raise invalid(name, "is not served here")
