"""Until the HTTP door lands: enough of its protocol for the page."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from hypercorn.asyncio import serve
from hypercorn.config import Config

from vlserve.errors import Code, ServeError
from vlserve.service import Service
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams


def openai_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models")
    def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": m.model, "object": "model"} for m in service.models()],
        }

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = json.loads(await request.body())
        try:
            asked = converted(body)
            chunks = service.chat(asked)
            first = await anext(chunks)
        except ServeError as error:
            return refused(error)

        async def pieces() -> AsyncIterator[Any]:
            yield first
            async for chunk in chunks:
                yield chunk

        if not body.get("stream"):
            text = "".join([c.text async for c in pieces()])
            return JSONResponse({"choices": [{"message": {"role": "assistant", "content": text}}]})

        async def events() -> AsyncIterator[str]:
            def said(choices: list[Any], usage: Any = None) -> str:
                return f"data: {json.dumps({'choices': choices, 'usage': usage})}\n\n"

            yield said([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
            try:
                async with aclosing(chunks):
                    async for c in pieces():
                        if c.text:
                            yield said([{"index": 0, "delta": {"content": c.text}}])
                        if c.finish_reason:
                            yield said(
                                [{"index": 0, "delta": {}, "finish_reason": c.finish_reason}]
                            )
                            u = c.usage
                            yield said(
                                [],
                                {
                                    "prompt_tokens": u.prompt_tokens,
                                    "completion_tokens": u.completion_tokens,
                                    "prompt_tokens_details": {
                                        "image_tokens": u.image_tokens,
                                        "cached_tokens": u.cached_tokens,
                                    },
                                },
                            )
            except ServeError as error:
                yield f"data: {json.dumps(error_body(error))}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return router


def converted(body: dict[str, Any]) -> ChatRequest:
    messages = []
    for i, m in enumerate(body["messages"]):
        content = m["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        messages.append(
            Message(
                Role(m["role"]),
                tuple(
                    p["text"]
                    if p["type"] == "text"
                    else ImageRef(url=p["image_url"]["url"], field=f"messages[{i}]")
                    for p in parts
                ),
            )
        )
    names = {"max_completion_tokens": "max_tokens"}
    sampling = {
        names.get(k, k): tuple(v) if k == "stop" else v
        for k, v in body.items()
        if k in ("max_completion_tokens", "temperature", "top_p", "seed", "stop")
    }
    return ChatRequest(tuple(messages), SamplingParams(**sampling), body["model"])


def error_body(error: ServeError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": str(error.code),
            "param": error.field,
            "code": None,
        }
    }


def refused(error: ServeError) -> JSONResponse:
    status = {
        Code.INVALID_ARGUMENT: 400,
        Code.NOT_FOUND: 404,
        Code.OVERLOADED: 429,
        Code.UNAVAILABLE: 503,
    }
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return JSONResponse(error_body(error), status.get(error.code, 500), headers)


@asynccontextmanager
async def http_served(*routers: APIRouter) -> AsyncIterator[str]:
    app = FastAPI()
    for router in routers:
        app.include_router(router)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    await asyncio.sleep(0.3)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await task
