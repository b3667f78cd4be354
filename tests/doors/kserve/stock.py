"""What a stock tritonclient sees: python -m tests.doors.kserve.stock ADDRESS PICTURE.

In a process of its own: the client and the server each have the protocol's messages, and one
process can hold them only once.
"""

import asyncio
import base64
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as async_client
from tritonclient.utils import InferenceServerException

MODEL = "scripted"


def tensor(name: str, kind: str, *values: object) -> Any:
    made = client.InferInput(name, [len(values)], kind)
    made.set_data_from_numpy(np.array(values, dtype=np.object_ if kind == "BYTES" else bool))
    return made


def asked(text: str, *, stream: bool = False, **sampling: object) -> list[Any]:
    return [
        tensor("text_input", "BYTES", text.encode()),
        tensor("stream", "BOOL", stream),
        tensor("sampling_parameters", "BYTES", json.dumps(sampling).encode()),
    ]


def seen(result: Any) -> dict[str, Any]:
    """Whatever came, as JSON can hold it."""
    names = [output.name for output in result.get_response().outputs]
    found = {
        name: [
            value.decode() if isinstance(value, bytes) else int(value)
            for value in result.as_numpy(name)
        ]
        for name in names
    }
    return {"id": result.get_response().id} | found


def failure(error: InferenceServerException) -> dict[str, Any]:
    return {"status": error.status(), "message": error.message()}


def streamed(server: Any, requests: dict[str, list[Any]], model: str = MODEL) -> list[Any]:
    """All pieces of several requests on one stream, in the order in which they came."""
    came: queue.Queue[Any] = queue.Queue()
    server.start_stream(lambda result, error: came.put(failure(error) if error else seen(result)))
    for name, inputs in requests.items():
        server.async_stream_infer(model, inputs, request_id=name, enable_empty_final_response=True)
    server.stop_stream()
    return [came.get() for _ in range(came.qsize())]


def refused(server: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    try:
        server.infer(*arguments, **options)
    except InferenceServerException as error:
        return failure(error)
    return {}


async def by_asyncio(address: str) -> list[Any]:
    async def requests() -> Any:
        for name in ("x", "y"):
            inputs = asked(f"from {name}", stream=True)
            yield {"model_name": MODEL, "inputs": inputs, "request_id": name}

    async with async_client.InferenceServerClient(address) as server:
        assert await server.is_server_ready()
        unary = seen(await server.infer(MODEL, asked("hello you"), request_id="u"))
        pieces = server.stream_infer(requests())
        return [unary] + [
            failure(error) if error else seen(result) async for result, error in pieces
        ]


def main() -> None:
    address, picture = sys.argv[1], Path(sys.argv[2]).read_bytes()
    server = client.InferenceServerClient(address)
    with_picture = asked("what is this")
    written = [tensor("image", "BYTES", base64.b64encode(picture)), *with_picture]
    raw = [tensor("image", "BYTES", picture, picture), *with_picture]
    wanted = [client.InferRequestedOutput(name) for name in ("text_output", "num_input_tokens")]
    report = {
        "live": server.is_server_live(),
        "ready": server.is_server_ready(),
        "model ready": server.is_model_ready(MODEL),
        "version ready": server.is_model_ready(MODEL, "1"),
        "other ready": server.is_model_ready("other"),
        "server": server.get_server_metadata(as_json=True),
        "model": server.get_model_metadata(MODEL, as_json=True),
        "config": server.get_model_config(MODEL, as_json=True),
        "unary": seen(server.infer(MODEL, asked("hello you", max_tokens="7"), request_id="a")),
        "two outputs": seen(server.infer(MODEL, asked("hello"), outputs=wanted)),
        "base64": seen(server.infer(MODEL, written)),
        "raw, twice": seen(server.infer(MODEL, raw)),
        "parameters": seen(
            server.infer(MODEL, [tensor("text_input", "BYTES", b"hello")], parameters={"seed": 3})
        ),
        "stream": streamed(server, {"s": asked("hello you", stream=True)}),
        "three at once": streamed(
            server, {name: asked(f"this is {name}", stream=True) for name in "pqr"}
        ),
        "a stream of one": streamed(server, {"w": asked("hello you")}),
        "stream error": streamed(
            server,
            {"bad": asked("x", stream=True, temperature=9), "good": asked("x", stream=True)},
        ),
        "asyncio": asyncio.run(by_asyncio(address)),
        "bad parameter": refused(server, MODEL, asked("x", temperature=9)),
        "unknown parameter": refused(server, MODEL, asked("x", best_of=2)),
        "unknown input": refused(server, MODEL, [*asked("x"), tensor("video", "BYTES", b"v")]),
        "unknown output": refused(
            server, MODEL, asked("x"), outputs=[client.InferRequestedOutput("embedding")]
        ),
        "unknown model": refused(server, "other", asked("x")),
        "unknown version": refused(server, MODEL, asked("x"), model_version="2"),
        "no picture": refused(server, MODEL, [tensor("image", "BYTES", b"\xff"), *asked("x")]),
        "too late": refused(server, MODEL, asked("hold"), client_timeout=0.3),
        "their timeout": refused(server, MODEL, asked("hold"), timeout=200_000),
    }
    report["statistics"] = server.get_inference_statistics(MODEL, as_json=True)
    report["repository"] = server.get_model_repository_index(as_json=True)
    server.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
