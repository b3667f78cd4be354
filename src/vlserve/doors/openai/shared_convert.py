"""What both of OpenAI's chat APIs turn into our own nouns, and back."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from vlserve.doors.openai.chat_objects import (
    TokenLogprobs,
    TopLogprob,
)
from vlserve.doors.openai.chat_schema import (
    VideoUrl,
)
from vlserve.doors.openai.shared_schema import (
    ImageDetail,
    ImageUrl,
    InputImagePart,
)
from vlserve.errors import invalid
from vlserve.media import uploads
from vlserve.types import (
    MAX_PARTS,
    Chunk,
    Detail,
    Guide,
    GuideKind,
    ImageRef,
    Role,
    TokenLogprob,
    Usage,
    total_usage,
)

ROLES: Final = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}


# What OpenAI gives for a token that is all but impossible: JSON has no infinity.
_LEAST_LOGPROB: Final = -9999.0


def refuse_tools(tools: Sequence[object] | None, choice: str | None, field: str = "tools") -> None:
    """Raises ServeError(INVALID_ARGUMENT) naming tools that the model might call."""
    if tools and choice != "none":
        raise invalid(field, f"{len(tools)} given, none are served here; leave {field} out")


def refuse_many_parts(contents: Iterable[str | Sequence[object] | None]) -> None:
    """Raises ServeError(INVALID_ARGUMENT, field="messages") where messages of these contents have
    too many parts together."""
    num_parts = sum(1 + (0 if isinstance(each, str) else len(each or ())) for each in contents)
    if num_parts > MAX_PARTS:
        raise invalid("messages", f"must hold at most {MAX_PARTS} messages and parts together")


def given(**values: Any) -> dict[str, Any]:
    """Those that the caller gave: the others keep the default that every door shares."""
    return {name: value for name, value in values.items() if value is not None}


def schema_guide(schema: Any) -> Guide:
    """A guide of a JSON schema. Raises ServeError(INVALID_ARGUMENT, field="guide")."""
    try:
        return Guide(GuideKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False))
    except RecursionError:
        raise invalid("guide", "is nested too deeply") from None


def total_of(chunks: Iterable[Chunk]) -> Usage:
    """The usage of a request, of whose answers `chunks` hold the last ones."""
    return total_usage(
        chunk.usage for chunk in chunks if chunk.usage is not None and chunk.finish_reason
    )


def token_logprobs(chunks: Iterable[Chunk]) -> list[TokenLogprobs]:
    """As OpenAI lists them."""
    return [
        TokenLogprobs(
            **_top_logprob(token).model_dump(), top_logprobs=list(map(_top_logprob, token.top))
        )
        for chunk in chunks
        for token in chunk.logprobs
    ]


def _top_logprob(token: TokenLogprob) -> TopLogprob:
    likely = max(token.logprob, _LEAST_LOGPROB)
    return TopLogprob(token=token.text, logprob=likely, bytes=list(token.data))


def input_image(part: InputImagePart, path: str) -> ImageRef:
    """A picture as responses write it. Raises ServeError(INVALID_ARGUMENT)."""
    if part.file_id is None and part.image_url is not None:
        url, field = url_of(part.image_url, f"{path}.image_url")
        return ImageRef(url=url, detail=detail_of(part.detail), field=field)
    if part.file_id is None or part.image_url is not None:
        raise invalid(path, "must hold one of image_url and file_id")
    field = f"{path}.file_id"
    if not part.file_id.startswith(uploads.SCHEME):  # a URL of another kind is none
        raise invalid(field, uploads.UNKNOWN)
    return ImageRef(url=part.file_id, detail=detail_of(part.detail), field=field)


def detail_of(said: ImageDetail | None) -> Detail:
    """LOW for `low`, AUTO for all else that OpenAI has."""
    return Detail.LOW if said == "low" else Detail.AUTO


def url_of(said: str | ImageUrl | VideoUrl, field: str) -> tuple[str, str]:
    """A URL that is not empty, and its caller's name."""
    if not isinstance(said, str):
        said, field = said.url, f"{field}.url"
    if not said:
        raise invalid(field, "must not be empty")
    return said, field
