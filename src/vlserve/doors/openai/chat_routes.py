"""`/v1/chat/completions`: one answer, several, or their pieces as they come."""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from vlserve.doors.fields import fields_named
from vlserve.doors.http.body_route import AskingRoute
from vlserve.doors.http.errors import CALL_REFUSALS, ErrorBody, body_of
from vlserve.doors.http.streaming import EventStream, TimedAnswer, begun, event, event_schema, whole
from vlserve.doors.openai import chat_convert as convert
from vlserve.doors.openai.chat_objects import (
    ChatCompletion,
    ChatCompletionChunk,
    ChunkChoice,
    CompletionUsage,
    Delta,
)
from vlserve.doors.openai.chat_schema import ChatCompletionRequest
from vlserve.engines.base import EngineInfo
from vlserve.service.service import Service
from vlserve.settings import LimitSettings
from vlserve.types import Chunk, Usage

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answers, or with `stream` their pieces, and `[DONE]` at the end",
        "content": {"text/event-stream": {"schema": event_schema(ChatCompletionChunk, ErrorBody)}},
    },
    **CALL_REFUSALS,
}


def routes(service: Service, limits: LimitSettings) -> APIRouter:
    """The paths of chat completions."""
    router = APIRouter(tags=["openai"], route_class=AskingRoute)
    version = metadata.version("vlserve")  # read from a file, which no answer waits for

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=_RESPONSES)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation of texts and pictures."""
        with fields_named(convert.names(body)):
            asked = convert.chat_request(body, limits)
            head = _head(service.info, version)
            answer = TimedAnswer(service.chat(asked))
            if body.stream:
                await begun(request, answer)
                return EventStream(answer, _events(answer, body, asked.sampling.n, head))
            chunks = await whole(request, answer)
        completion = ChatCompletion(
            **head,
            choices=convert.choices(chunks, with_logprobs=bool(body.logprobs)),
            usage=convert.usage(chunks),
        )
        return Response(
            completion.model_dump_json(),
            headers={"server-timing": answer.timing},
            media_type="application/json",
        )

    return router


def _head(info: EngineInfo, version: str) -> dict[str, Any]:
    """What is the same in all pieces of an answer."""
    backend = f"{version} {info.model} {info.engine} {info.device} {info.dtype}"
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": info.model,
        "system_fingerprint": f"fp_{hashlib.sha256(backend.encode()).hexdigest()[:10]}",
    }


async def _events(
    answer: TimedAnswer, body: ChatCompletionRequest, num_answers: int, head: dict[str, Any]
) -> AsyncGenerator[bytes]:
    """The roles of all answers, in order: clients make room for each as it comes. Then the pieces
    and the finish reason of each answer; the usage where it is asked for."""
    pieces = _Pieces(body, head)
    last: list[Chunk] = []
    has_begun = False
    try:
        async for chunk in answer:
            if not has_begun:
                has_begun = True
                for index in range(num_answers):
                    role = Delta(role="assistant", content="")
                    first = Chunk("", usage=chunk.usage, index=index)
                    yield pieces.of(first, role)
            pieces.count(chunk)
            if chunk.text or (body.logprobs and chunk.logprobs):
                yield pieces.of(chunk, Delta(content=chunk.text), is_text=True)
            if chunk.finish_reason is not None:
                last.append(chunk)
                yield pieces.of(chunk, Delta(), is_last=True)
        if pieces.wants_usage:
            yield pieces.usage_of(convert.usage(last))
    except Exception as error:
        yield event(body_of(error))
    yield event("[DONE]")


class _Pieces:
    """Makes the pieces of a stream."""

    def __init__(self, body: ChatCompletionRequest, head: dict[str, Any]) -> None:
        options = body.stream_options
        self.wants_usage = bool(options and options.include_usage)
        self._is_continuous = bool(self.wants_usage and options and options.continuous_usage_stats)
        self._has_logprobs = bool(body.logprobs)
        self._head = head | {"object": "chat.completion.chunk"}
        self._prompt: Usage | None = None
        self._num_tokens: Counter[int] = Counter()

    def count(self, chunk: Chunk) -> None:
        """The tokens of a chunk, before its pieces are made."""
        self._num_tokens[chunk.index] += len(chunk.token_ids)

    def of(
        self, chunk: Chunk, delta: Delta, *, is_text: bool = False, is_last: bool = False
    ) -> bytes:
        """A piece of one answer."""
        choice = ChunkChoice(
            index=chunk.index,
            delta=delta,
            logprobs=convert.logprobs([chunk]) if is_text and self._has_logprobs else None,
            finish_reason=chunk.finish_reason if is_last else None,
        )
        usage = {"usage": self._so_far(chunk)} if self.wants_usage else {}
        return event(ChatCompletionChunk(**self._head, choices=[choice], **usage))

    def usage_of(self, usage: CompletionUsage) -> bytes:
        """The piece with the usage of all answers."""
        return event(ChatCompletionChunk(**self._head, choices=[], usage=usage))

    def _so_far(self, chunk: Chunk) -> CompletionUsage | None:
        """With `continuous_usage_stats` what the answer has taken until here, as vLLM tells it."""
        self._prompt = self._prompt or chunk.usage
        if not self._is_continuous or self._prompt is None:
            return None
        num_tokens = self._num_tokens[chunk.index]
        return convert.completion_usage(replace(self._prompt, completion_tokens=num_tokens))
