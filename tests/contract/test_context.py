"""A request that does not fit the context is told so by every door, in its own way."""

from typing import Any

import grpc.aio
import openai
import pytest
from google.rpc import error_details_pb2

from tests.doors.grpc import live as grpc_live
from tests.doors.grpc.live import detail
from tests.doors.http.live import served
from tests.doors.kserve.asked import InferenceClient, asked
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.status import raised
from vlserve.engines.echo import MAX_CONTEXT_TOKENS, EchoEngine
from vlserve.errors import Code
from vlserve.settings import EngineSettings, ModelSettings

NUM_WORDS = MAX_CONTEXT_TOKENS + 7
TEXT = "word " * NUM_WORDS
SENTENCE = (
    f"maximum context length is {MAX_CONTEXT_TOKENS} tokens, the request has {NUM_WORDS // 10}"
)
CODE = "context_length_exceeded"


async def test_every_door_says_that_the_context_is_too_small() -> None:
    async with served(EchoEngine(ModelSettings(), EngineSettings())) as house:
        bodies: dict[str, dict[str, Any]] = {
            "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}]},
            "/v1/responses": {"input": TEXT},
        }
        for path, body in bodies.items():
            for is_stream in (False, True):
                answer = await house.post(path, body | {"stream": is_stream})
                assert answer.status == 400, (path, answer)
                assert (answer.error["code"], answer.error["type"]) == (
                    CODE,
                    "invalid_request_error",
                )
                assert SENTENCE in answer.error["message"]
        async with house.client() as stock:
            with pytest.raises(openai.BadRequestError) as refused:
                await stock.chat.completions.create(
                    model="", messages=[{"role": "user", "content": TEXT}]
                )
        assert refused.value.code == CODE
        async with house.grpc_client() as client:
            wire = pb.VisionRequest(prompt=TEXT)
            with pytest.raises(grpc.aio.AioRpcError) as whole:
                await client.chat(wire)
            with pytest.raises(grpc.aio.AioRpcError) as pieces:
                await anext(aiter(client.chat_stream(wire)))
        for error in (whole.value, pieces.value):
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"prompt: {SENTENCE}" in (error.details() or "")
            assert detail(error, error_details_pb2.ErrorInfo).reason == CODE.upper()
            (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
            assert violation.field == "prompt"
            assert raised(error).code is Code.CONTEXT_LENGTH_EXCEEDED
    async with (
        grpc_live.served(EchoEngine(ModelSettings(), EngineSettings())) as triton_house,
        InferenceClient(triton_house.door.address) as triton,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await triton.infer(asked(TEXT))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"text_input: {SENTENCE}" in (refusal.value.details() or "")
        (piece,) = await triton.pieces(asked(TEXT, flags={"stream": True}))
        assert f"text_input: {SENTENCE}" in piece.error_message
