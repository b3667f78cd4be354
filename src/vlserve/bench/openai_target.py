"""Any server of OpenAI's chat completions as a target, through OpenAI's own client."""

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from vlserve.bench.targets import AskFailed
from vlserve.types import ChatRequest, Chunk, FinishReason, ImageRef, Message, Usage, VideoRef

_NO_KEY: Final = "none"  # the client wants one where a server does not
_FINISH_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class OpenAITarget:
    """A Target over an open client. A failure's kind is the HTTP status, or what broke."""

    def __init__(self, client: openai.AsyncOpenAI, model: str) -> None:
        self._client = client
        self._model = model

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer as the server streams it, pictures sent as data URIs.

        Where the request wants exactly so many tokens, `ignore_eos` is asked for, which not every
        server knows.
        """
        messages: Any = [wire_message(message) for message in request.messages]
        usage, finish = None, None
        try:
            stream = await self._client.chat.completions.create(
                model=request.model or self._model,
                messages=messages,
                max_tokens=request.sampling.max_tokens,
                temperature=request.sampling.temperature,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True} if request.sampling.min_tokens else None,
            )
            async with stream:
                async for chunk in stream:
                    usage = _usage(chunk) or usage
                    for choice in chunk.choices:
                        finish = choice.finish_reason or finish
                        if choice.delta.content:
                            yield Chunk(choice.delta.content)
        except openai.APIStatusError as error:
            raise AskFailed(f"http {error.status_code}", error.message) from None
        except openai.APIConnectionError as error:
            raise AskFailed("connection", str(error.__cause__ or error)) from None
        except openai.APIError as error:
            raise AskFailed("stream", error.message) from None
        if finish is None:
            raise AskFailed("incomplete", "the stream ended without a finish reason")
        yield Chunk("", (), _FINISH_REASONS.get(finish, FinishReason.STOP), usage)


@asynccontextmanager
async def openai_target(url: str, model: str, api_key: str | None) -> AsyncIterator[OpenAITarget]:
    """A server by its URL, `/v1` added where it has no path, and one of its models.

    `model` "" takes the first that the server lists. Raises OSError where that list cannot be had.
    """
    bare = url.rstrip("/")
    base = bare if "/" in bare.partition("://")[2] else f"{bare}/v1"
    async with openai.AsyncOpenAI(
        base_url=base, api_key=api_key or _NO_KEY, max_retries=0, timeout=None
    ) as client:
        if not model:
            try:
                listed = [item.id async for item in client.models.list()]
            except openai.APIError as error:
                raise OSError(f"{base}/models: {error.__cause__ or error}") from None
            if not listed:
                raise OSError(f"{base}/models lists none: give a --model")
            model = listed[0]
        yield OpenAITarget(client, model)


def wire_message(message: Message[ImageRef | VideoRef]) -> ChatCompletionMessageParam:
    """A turn in OpenAI's form."""
    parts = [_wire_part(part) for part in message.content]
    wire: Any = {"role": message.role.value, "content": parts}
    return wire  # type: ignore[no-any-return]


def _wire_part(part: str | ImageRef | VideoRef) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image_url" if isinstance(part, ImageRef) else "video_url"
    data = base64.b64encode(part.data).decode()
    return {"type": kind, kind: {"url": f"data:image/png;base64,{data}"}}


def _usage(chunk: ChatCompletionChunk) -> Usage | None:
    if chunk.usage is None:
        return None
    return Usage(chunk.usage.prompt_tokens, 0, chunk.usage.completion_tokens)
