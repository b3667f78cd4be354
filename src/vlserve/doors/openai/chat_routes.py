"""`/v1/chat/completions`: one answer, several, or their pieces as they come."""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from vlserve.doors.fields import fields_named
from vlserve.doors.http.body_route import AskingRoute
from vlserve.doors.http.errors import CALL_REFUSALS, body_of
from vlserve.doors.http.streaming import EventStream, TimedAnswer, begun, event, whole
from vlserve.doors.openai import chat_convert as convert
from vlserve.doors.openai.chat_objects import (
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    Delta,
)
from vlserve.doors.openai.chat_schema import ChatCompletionRequest
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import Chunk

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answers, or with `stream` their pieces",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **CALL_REFUSALS,
}


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """The paths of chat completions."""
    router = APIRouter(tags=["openai"], route_class=AskingRoute)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=_RESPONSES)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation of texts and pictures."""
        with fields_named(convert.names(body)):
            asked = convert.chat_request(body, limits)
            model = service.info.model
            answer = TimedAnswer(service.chat(asked))
            if body.stream:
                await begun(request, answer)
                return EventStream(answer, _events(answer, body, model))
            chunks = await whole(request, answer)
        completion = ChatCompletion(
            id=_new_id(),
            created=int(time.time()),
            model=model,
            choices=convert.choices(chunks, with_logprobs=bool(body.logprobs)),
            usage=convert.usage(chunks),
        )
        return Response(
            completion.model_dump_json(),
            headers={"server-timing": answer.timing},
            media_type="application/json",
        )

    return router


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


async def _events(
    answer: TimedAnswer, body: ChatCompletionRequest, model: str
) -> AsyncGenerator[bytes]:
    """The role, the pieces, the finish reason of each answer; the usage where it is asked for."""
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    head: dict[str, Any] = {"id": _new_id(), "created": int(time.time()), "model": model}
    head |= {"object": "chat.completion.chunk"}
    nothing_yet = {"usage": None} if wants_usage else {}
    has_begun: set[int] = set()
    last: list[Chunk] = []

    def piece(chunk: Chunk, delta: Delta, *, is_text: bool = False, is_last: bool = False) -> bytes:
        choice = ChunkChoice(
            index=chunk.index,
            delta=delta,
            logprobs=convert.logprobs([chunk]) if is_text and body.logprobs else None,
            finish_reason=chunk.finish_reason if is_last else None,
        )
        return event(ChatCompletionChunk(**head, choices=[choice], **nothing_yet))

    try:
        async for chunk in answer:
            if chunk.index not in has_begun:
                has_begun.add(chunk.index)
                yield piece(chunk, Delta(role="assistant", content=""))
            if chunk.text or (body.logprobs and chunk.logprobs):
                yield piece(chunk, Delta(content=chunk.text), is_text=True)
            if chunk.finish_reason is not None:
                last.append(chunk)
                yield piece(chunk, Delta(), is_last=True)
        if wants_usage:
            yield event(ChatCompletionChunk(**head, choices=[], usage=convert.usage(last)))
    except Exception as error:
        yield event(body_of(error))
    yield event("[DONE]")
