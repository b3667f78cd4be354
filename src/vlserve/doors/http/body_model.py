"""What the bodies of all calls are made of."""

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from vlserve.parameters import NOT_UNICODE, is_unicode

_MAX_FIELDS: Final = 256  # far more than any object has: pydantic lists each one that is wrong


def _unicode(text: str) -> str:
    """JSON can write half a character, which no text may hold."""
    if not is_unicode(text):
        raise ValueError(NOT_UNICODE)
    return text


Text = Annotated[str, AfterValidator(_unicode)]


class Said(BaseModel):
    """An object as the caller wrote it: nothing in it is of another type or unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise ValueError(f"must hold at most {_MAX_FIELDS} fields")
        return value
