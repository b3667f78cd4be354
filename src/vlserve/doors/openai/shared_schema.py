"""What chat completions and responses may both say. The classes are the OpenAPI document too."""

from typing import Any, Final, Literal, TypeVar

from pydantic import Discriminator, Field

from vlserve.doors.http.body_model import EITHER_OBJECT, Said
from vlserve.doors.unasked import IGNORED_OF_PART, IGNORED_OF_SCHEMA

ImageDetail = Literal["auto", "low", "high", "original"]


_DETAIL: Final = (
    "low: the model looks once, at the whole picture; otherwise as its processor does of itself"
)


T = TypeVar("T")


def told(text: str, **bounds: Any) -> Any:
    """An optional field with bounds for the document alone."""
    return Field(None, description=text, json_schema_extra=dict(bounds))


def _form(value: object) -> str:
    return "text" if isinstance(value, str) else EITHER_OBJECT


EitherForm = Discriminator(_form)


class ImageUrl(Said):
    """Where a picture is, and how closely it should be looked at."""

    url: str = Field(
        description="a data: URL in base64, the id of an upload,"
        " or http(s) where fetching is switched on"
    )
    detail: ImageDetail | None = Field(None, description=_DETAIL)


class InputImagePart(Said):
    """A picture, as responses write it: by one of `image_url` and `file_id`."""

    ignored = IGNORED_OF_PART
    type: Literal["input_image"]
    image_url: str | None = Field(None, description="as `url` of ImageUrl")
    file_id: str | None = Field(None, description="the id of an upload")
    detail: ImageDetail | None = Field(None, description=_DETAIL)


class JsonSchema(Said):
    """A schema that the answer is held to, strictly, whatever `strict` says."""

    ignored = IGNORED_OF_SCHEMA
    schema_: dict[str, Any] = Field(alias="schema")


class AnyText(Said):
    """Text of any kind."""

    type: Literal["text"]


class JsonObjectFormat(Said):
    """Any JSON object."""

    type: Literal["json_object"]
