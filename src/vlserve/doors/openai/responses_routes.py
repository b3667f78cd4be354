"""`/v1/responses`: the text and image core, without a memory."""

from collections.abc import AsyncGenerator, Iterator
from itertools import count
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from vlserve.doors.fields import fields_named
from vlserve.doors.http.body_route import AskingRoute
from vlserve.doors.http.errors import CALL_REFUSALS, body_of
from vlserve.doors.http.streaming import EventStream, TimedAnswer, begun, event, event_schema, whole
from vlserve.doors.openai import shared_convert
from vlserve.doors.openai.responses_convert import Reply, chat_request, names
from vlserve.doors.openai.responses_schema import (
    OutputText,
    ResponseEvent,
    ResponseFailure,
    ResponseObject,
    ResponseRequest,
)
from vlserve.service.service import Service
from vlserve.service.settled import settled
from vlserve.settings import LimitSettings
from vlserve.types import Chunk

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer, or with `stream` the events of its coming",
        "content": {"text/event-stream": {"schema": event_schema(ResponseEvent)}},
    },
    **CALL_REFUSALS,
}


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """The paths of responses."""
    router = APIRouter(tags=["openai"], route_class=AskingRoute)

    @router.post("/v1/responses", response_model=ResponseObject, responses=_RESPONSES)
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """Answer a text or a conversation of texts and pictures. Nothing is stored."""
        with fields_named(names(body)):
            asked = chat_request(body, limits)
            answer = TimedAnswer(service.chat(asked))
            reply = Reply(body, settled(asked, service.info, limits), service.info.model)
            if body.stream:
                await begun(request, answer)
                return EventStream(answer, _events(answer, reply))
            chunks = await whole(request, answer)
        return Response(
            reply.whole(chunks).model_dump_json(),
            headers={"server-timing": answer.timing},
            media_type="application/json",
        )

    return router


async def _events(answer: TimedAnswer, reply: Reply) -> AsyncGenerator[bytes]:
    """Each event of the answer's coming, numbered from 0."""
    numbers = count()
    chunks: list[Chunk] = []
    try:
        for each in _opening(reply, numbers):
            yield each
        async for chunk in answer:
            chunks.append(chunk)
            if chunk.text or (reply.has_logprobs and chunk.logprobs):
                tokens = shared_convert.token_logprobs([chunk]) if reply.has_logprobs else []
                yield _event(
                    "response.output_text.delta",
                    numbers,
                    **_place(reply),
                    content_index=0,
                    delta=chunk.text,
                    logprobs=[token.model_dump() for token in tokens],
                )
        for each in _closing(reply, chunks, numbers):
            yield each
    except Exception as error:
        failed = reply.begun()
        failed.status = "failed"
        detail = body_of(error).error
        failed.error = ResponseFailure(code=detail.code or detail.type, message=detail.message)
        yield _event("response.failed", numbers, response=failed)


def _opening(reply: Reply, numbers: Iterator[int]) -> Iterator[bytes]:
    response = reply.begun()
    yield _event("response.created", numbers, response=response)
    yield _event("response.in_progress", numbers, response=response)
    item = reply.item("in_progress", [])
    yield _event("response.output_item.added", numbers, output_index=0, item=item)
    part = OutputText(text="")
    place = _place(reply)
    yield _event("response.content_part.added", numbers, **place, content_index=0, part=part)


def _closing(reply: Reply, chunks: list[Chunk], numbers: Iterator[int]) -> Iterator[bytes]:
    response = reply.whole(chunks)
    (item,) = response.output
    (part,) = item.content
    place = _place(reply) | {"content_index": 0}
    logprobs = [token.model_dump() for token in part.logprobs]
    yield _event("response.output_text.done", numbers, **place, text=part.text, logprobs=logprobs)
    yield _event("response.content_part.done", numbers, **place, part=part)
    yield _event("response.output_item.done", numbers, output_index=0, item=item)
    yield _event(f"response.{response.status}", numbers, response=response)


def _place(reply: Reply) -> dict[str, Any]:
    return {"item_id": reply.item_id, "output_index": 0}


def _event(kind: str, numbers: Iterator[int], **data: Any) -> bytes:
    shown = {
        name: value.model_dump() if isinstance(value, BaseModel) else value
        for name, value in data.items()
    }
    return event({"type": kind, "sequence_number": next(numbers), **shown}, kind)
