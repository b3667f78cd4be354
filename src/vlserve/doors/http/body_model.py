"""What the bodies of all calls are made of."""

from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from vlserve.doors.unasked import asked
from vlserve.parameters import NOT_UNICODE, is_unicode

_MAX_FIELDS: Final = 256  # far more than any object has: pydantic lists each one that is wrong


def _unicode(text: str) -> str:
    """JSON can write half a character, which no text may hold."""
    if not is_unicode(text):
        raise ValueError(NOT_UNICODE)
    return text


# The name of a field's other form, where it may be a text or something else.
EITHER_OBJECT: Final = "object"

Text = Annotated[str, AfterValidator(_unicode)]


def _documented(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    """The document names what is ignored."""
    assert issubclass(kind, Said)  # noqa: S101  it is in the config of Said
    for name in sorted(kind.ignored):
        schema["properties"].setdefault(name, {"description": "ignored"})


class Said(BaseModel):
    """An object as the caller wrote it: nothing in it is of another type, and what is unknown asks
    for nothing, or is in `ignored`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra=_documented
    )
    ignored: ClassVar[frozenset[str]] = frozenset()
    meant_empty: ClassVar[frozenset[str]] = frozenset()  # of its own: only null is left out

    @model_validator(mode="before")
    @classmethod
    def _asked(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if len(value) > _MAX_FIELDS:
            raise ValueError(f"must hold at most {_MAX_FIELDS} fields, not {len(value)}")
        fields = cls.model_fields.items()
        served = {field.alias or name: field.is_required() for name, field in fields}
        served |= dict.fromkeys(cls.meant_empty, True)
        return asked(value, served, cls.ignored)
