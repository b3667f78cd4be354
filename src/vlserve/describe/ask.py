"""A picture and the question of a run -> a row."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

from vlserve.describe.connect import Connection
from vlserve.describe.journal import Done
from vlserve.describe.patience import Patience, ask_patiently
from vlserve.describe.pictures import Picture
from vlserve.errors import Code, ServeError
from vlserve.types import (
    ChatRequest,
    Chunk,
    Detail,
    FinishReason,
    ImageRef,
    Message,
    Role,
    SamplingParams,
    Usage,
)

COLUMNS: Final[dict[str, type]] = {
    "path": str,
    "text": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "image_tokens": int,
    "completion_tokens": int,
    "seconds": float,
    "error": str,
}
# At fault here is what all pictures are asked with.
_OF_ALL: Final = {field.name for field in fields(SamplingParams)} | {"guide", "model"}


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks of each picture: whatever makes an answer another one."""

    question: str
    detail: Detail
    max_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    finish_reason: FinishReason
    usage: Usage
    seconds: float  # from its request to its end


class Asker:
    """Asks about pictures of at most `max_bytes`."""

    def __init__(
        self, connection: Connection, asked: Question, patience: Patience, max_bytes: int
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._patience = patience
        self._max_bytes = max_bytes

    async def ask(self, picture: Picture) -> Done:
        """The row of a picture, which says so if it is the picture's fault that there is no answer.

        Raises ServeError for what would befall all pictures alike, and DescribeError when patience
        ends.
        """
        try:
            data, stamp = await asyncio.to_thread(picture.read, self._max_bytes)
        except OSError as error:
            return _failed(picture, picture.stamp, f"unreadable: {error.strerror}")
        except ServeError as error:
            return _failed(picture, picture.stamp, _said(error))
        try:
            answer = await ask_patiently(partial(self._answer, data), self._patience)
        except ServeError as error:
            if error.code is Code.NOT_FOUND or (error.field or "").split(".")[-1] in _OF_ALL:
                raise
            return _failed(picture, stamp, _said(error))
        return Done(picture.key, stamp, None, _row(picture, answer))

    async def _answer(self, data: bytes) -> _Answer:
        begin_s = time.monotonic()
        texts: list[str] = []
        last: Chunk | None = None
        async with aclosing(self._connection.chat(self._request(data))) as chunks:
            async for last in chunks:
                texts.append(last.text)
        if last is None or last.finish_reason is None or last.usage is None:
            raise ServeError(Code.INTERNAL, "the answer has no end")
        seconds = time.monotonic() - begin_s
        return _Answer("".join(texts), last.finish_reason, last.usage, seconds)

    def _request(self, data: bytes) -> ChatRequest:
        picture = ImageRef(data, "picture", detail=self._asked.detail)
        content = (picture, self._asked.question)
        sampling = SamplingParams(max_tokens=self._asked.max_tokens)
        return ChatRequest((Message(Role.USER, content),), sampling, self._asked.model)


def _row(picture: Picture, answer: _Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "path": picture.key,
        "text": answer.text,
        "finish_reason": answer.finish_reason.value,
        "prompt_tokens": usage.prompt_tokens,
        "image_tokens": usage.image_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": round(answer.seconds, 3),
        "error": None,
    }


def _failed(picture: Picture, stamp: str, why: str) -> Done:
    row = dict.fromkeys(COLUMNS) | {"path": picture.key, "error": why}
    return Done(picture.key, stamp, why, row)


def _said(error: ServeError) -> str:
    return f"{error.code.value}: {error.message}"
