"""Any server of OpenAI's chat completions as a target."""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from vlserve.bench.targets import AskFailed
from vlserve.engines.upstream.client import (
    BrokenStream,
    Client,
    Refused,
    Unreachable,
    connect,
)
from vlserve.types import ChatRequest, Chunk, FinishReason, ImageRef, Message, Usage, VideoRef

_FINISH_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class OpenAITarget:
    """A Target over an open client. A failure's kind is the HTTP status, or what broke."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer as the server streams it, pictures sent as data URIs.

        Where the request wants exactly so many tokens, `ignore_eos` is asked for, which not every
        server knows.
        """
        body = {
            "model": request.model or self._model,
            "messages": [wire_message(message) for message in request.messages],
            "max_tokens": request.sampling.max_tokens,
            "temperature": request.sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.sampling.min_tokens:
            body["ignore_eos"] = True
        usage, finish = None, None
        try:
            stream = self._client.stream("chat/completions", json.dumps(body).encode())
            async with aclosing(stream):
                async for event in stream:
                    usage = _usage(event) or usage
                    for choice in event.get("choices") or ():
                        finish = choice.get("finish_reason") or finish
                        if text := (choice.get("delta") or {}).get("content"):
                            yield Chunk(text)
        except Refused as error:
            raise AskFailed(f"http {error.status}", str(error)) from None
        except Unreachable as error:
            raise AskFailed("connection", str(error)) from None
        except BrokenStream as error:
            raise AskFailed("stream", str(error)) from None
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
    async with connect(base, key=api_key or "") as client:
        if not model:
            try:
                listed = await client.models()
            except (Unreachable, Refused, ValueError) as error:
                raise OSError(f"{base}/models: {error}") from None
            if not listed:
                raise OSError(f"{base}/models lists none: give a --model")
            model = listed[0]
        yield OpenAITarget(client, model)


def wire_message(message: Message[ImageRef | VideoRef]) -> dict[str, Any]:
    """A turn in OpenAI's form."""
    parts = [_wire_part(part) for part in message.content]
    return {"role": message.role.value, "content": parts}


def _wire_part(part: str | ImageRef | VideoRef) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(part.data).decode()
    if isinstance(part, VideoRef):
        return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _usage(event: dict[str, Any]) -> Usage | None:
    usage = event.get("usage")
    return Usage(usage["prompt_tokens"], 0, usage["completion_tokens"]) if usage else None
