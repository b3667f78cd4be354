"""The caller's names for the fields that other rooms name."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from vlserve.errors import ServeError

_END_OF_NAME: Final = re.compile(r"[.[]|$")


def callers_name(field: str, names: Mapping[str, str]) -> str:
    """What the caller calls a field of ours: `names` has it, or the field that it is a part of."""
    for end in reversed([found.start() for found in _END_OF_NAME.finditer(field)]):
        name = names.get(field[:end])
        if name is not None:
            return f"{name}{field[end:]}"
    return field


@contextmanager
def fields_named(names: Mapping[str, str], prefix: str = "") -> Iterator[None]:
    """Errors raised inside name the caller's field, behind `prefix`."""
    try:
        yield
    except ServeError as error:
        if error.field is not None:
            error.field = f"{prefix}{callers_name(error.field, names)}"
        raise
