"""At each door the bytes of the tokens of an answer make exactly its text, whatever ends it."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.doors.grpc.live import served as grpc_served
from tests.doors.http.live import House, served, user
from tests.doors.kserve.asked import InferenceClient, asked, outputs
from tests.engines.collect import running
from tests.scripted import ScriptedEngine
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.engines.native.engine import NativeEngine
from vlserve.types import Chunk, Request

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
QUESTION = "naïve café, 東京の写真 😀"
SEEDS = range(6)
ENDS: list[dict[str, Any]] = [{}, {"stop": ["e", "東", " a"]}, {"stop": ["o"], "min_tokens": 6}]
DRAWN: dict[str, Any] = {"temperature": 1.8, "seed": 0}
Told = tuple[str, bytes]  # a text, and what its tokens are together


class Late(ScriptedEngine):
    """Its tokens are known after their text is shown, and come in a piece without one."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        async for chunk in super().generate(request):
            tokens = [replace(token, data=chunk.text.encode(), top=()) for token in chunk.logprobs]
            yield replace(chunk, token_ids=(), logprobs=()) if tokens else chunk
            if tokens:
                yield Chunk("", chunk.token_ids, logprobs=tuple(tokens))


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["native", "late"])
async def house(
    request: pytest.FixtureRequest, tiny_folder: Path
) -> AsyncIterator[House[NativeEngine] | House[Late]]:
    if request.param == "late":
        async with served(Late()) as late:
            yield late
    else:
        async with running(tiny_folder) as engine, served(engine) as native:
            yield native


def cases(length: str) -> list[dict[str, Any]]:
    return [DRAWN | {"seed": seed, length: 24} | end for end in ENDS for seed in SEEDS]


async def events(house: House[Any], path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await house.post(path, body | {"stream": True})
    lines = [line for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def joined(tokens: list[dict[str, Any]]) -> bytes:
    return b"".join(bytes(token["bytes"]) for token in tokens)


async def chat(house: House[Any]) -> AsyncIterator[Told]:
    for case in cases("max_tokens"):
        body = case | {"messages": [user(QUESTION)], "logprobs": True, "top_logprobs": 2}
        (choice,) = (await house.post(CHAT, body)).json["choices"]
        yield choice["message"]["content"], joined(choice["logprobs"]["content"])


async def chat_streamed(house: House[Any]) -> AsyncIterator[Told]:
    for case in cases("max_tokens"):
        body = case | {"messages": [user(QUESTION)], "logprobs": True}
        choices = [piece["choices"][0] for piece in await events(house, CHAT, body)]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        told = [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]]
        yield text, joined([token for tokens in told for token in tokens])


async def responses(house: House[Any]) -> AsyncIterator[Told]:
    for case in cases("max_output_tokens"):
        body = case | {"input": QUESTION, "top_logprobs": 2}
        (part,) = (await house.post(RESPONSES, body)).json["output"][0]["content"]
        yield part["text"], joined(part["logprobs"])


async def responses_streamed(house: House[Any]) -> AsyncIterator[Told]:
    for case in cases("max_output_tokens"):
        found = await events(house, RESPONSES, case | {"input": QUESTION, "top_logprobs": 0})
        deltas = [each for each in found if each["type"] == "response.output_text.delta"]
        (done,) = (each for each in found if each["type"] == "response.output_text.done")
        tokens = [token for each in deltas for token in each["logprobs"]]
        assert tokens == done["logprobs"]
        assert done["text"] == "".join(each["delta"] for each in deltas)
        yield done["text"], joined(tokens)


async def grpc(house: House[Any]) -> AsyncIterator[Told]:
    async with house.grpc_client() as client:
        for case in cases("max_tokens"):
            wire = pb.VisionRequest(prompt=QUESTION, sampling=pb.Sampling(**case, logprobs=2))
            whole = await client.chat(wire)
            yield whole.text, b"".join(token.data for token in whole.logprobs)
            pieces = [piece async for piece in client.chat_stream(wire)]
            told = b"".join(token.data for piece in pieces for token in piece.logprobs)
            yield "".join(piece.text for piece in pieces), told


async def kserve(house: House[Any]) -> AsyncIterator[Told]:
    """Which has the tokens as texts, not as bytes: the guide keeps their characters whole."""
    guide = {"regex": "[a-z ]{20}", "logprobs": 0}
    flags = {"return_logprobs": True}
    async with grpc_served(house.engine) as door, InferenceClient(door.door.address) as client:
        for case in cases("max_tokens"):
            wire = asked(QUESTION, sampling=case | guide, flags=flags)
            streamed = asked(QUESTION, sampling=case | guide, flags=flags | {"stream": True})
            pieces = [piece.infer_response for piece in await client.pieces(streamed)]
            for answer in ([await client.infer(wire)], pieces):
                found = [outputs(piece) for piece in answer]
                tokens = [token for each in found for token in json.loads(each["logprobs"][0])]
                words = [its["decoded_token"] for token in tokens for its in token.values()]
                yield "".join(each["text_output"][0] for each in found), "".join(words).encode()


@pytest.mark.parametrize("door", [chat, chat_streamed, responses, responses_streamed, grpc, kserve])
async def test_the_bytes_of_the_tokens_are_the_text(house: House[Any], door: Any) -> None:
    told = [each async for each in door(house)]
    assert len(told) > len(SEEDS)
    assert [tokens for _, tokens in told] == [text.encode() for text, _ in told]
    assert sum(bool(text) for text, _ in told) > len(told) // 2
