"""Bare servers to hold a door against: python -m bench.door_servers (grpc | asgi) PORT.

They read a request as a door has to, and answer with what lies ready: as many pieces, of as many
bytes, as the doors of vlserve answer with.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from bench.door_load import NUM_PIECES
from vlserve.doors.grpc.pb import vision_pb2 as pb

_MAX_BYTES = 64 * 2**20
_TEXT = "said: " * NUM_PIECES
_USAGE = pb.Usage(prompt_tokens=9, text_tokens=9, completion_tokens=NUM_PIECES)
_LAST = pb.VisionResponse(finish_reason=pb.FINISH_REASON_STOP, usage=_USAGE, model="echo")
_PIECE = pb.VisionResponse(text="said: ", model="echo")


def _message(text: str, name: str) -> dict[str, object]:
    choice = {"index": 0, name: {"role": "assistant", "content": text}, "finish_reason": None}
    return {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_800_000_000,
        "model": "echo",
        "choices": [choice],
    }


_BODY = json.dumps(_message(_TEXT, "message")).encode()
_EVENT = f"data: {json.dumps(_message('said: ', 'delta'))}\n\n".encode()


async def serve_grpc(port: int) -> None:
    """Chat and ChatStream of VisionService, on a server of grpc.aio as it comes."""

    async def chat(wire: pb.VisionRequest, context: Any) -> pb.VisionResponse:
        del wire, context
        return pb.VisionResponse(text=_TEXT, model="echo", usage=_USAGE)

    async def chat_stream(wire: pb.VisionRequest, context: Any) -> None:
        del wire
        for _ in range(NUM_PIECES - 1):
            await context.write(_PIECE)
        await context.write(_LAST)

    server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MAX_BYTES),))
    read, write = pb.VisionRequest.FromString, pb.VisionResponse.SerializeToString
    handlers: dict[str, Any] = {
        "Chat": grpc.unary_unary_rpc_method_handler(chat, read, write),
        "ChatStream": grpc.unary_stream_rpc_method_handler(chat_stream, read, write),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("vision.VisionService", handlers),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """A JSON body in, a JSON body or events out."""
    if scope["type"] != "http":
        return
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    is_stream = json.loads(body)["stream"]
    kind = b"text/event-stream" if is_stream else b"application/json"
    headers = [(b"content-type", kind)]
    if not is_stream:
        headers.append((b"content-length", str(len(_BODY)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if is_stream:
        for _ in range(NUM_PIECES):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
        last = b"data: [DONE]\n\n"
    else:
        last = _BODY
    await send({"type": "http.response.body", "body": last})


async def serve_asgi(port: int) -> None:
    """`app`, on the server library that the HTTP door uses."""
    import uvicorn  # noqa: PLC0415  gRPC alone is measured without it

    bare: Any = app
    config = uvicorn.Config(
        bare, port=port, http="h11", lifespan="off", log_config=None, access_log=False
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Serve until ended."""
    serve = {"grpc": serve_grpc, "asgi": serve_asgi}[sys.argv[1]]
    asyncio.run(serve(int(sys.argv[2])))


if __name__ == "__main__":
    main()
