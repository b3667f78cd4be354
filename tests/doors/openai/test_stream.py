"""Streams as OpenAI's own helper takes them, and as the document says."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, get_args

import jsonschema
import pytest

from tests.doors.http.live import House, live, user
from tests.scripted import MODEL, ScriptedEngine
from vlserve.doors.openai.responses_schema import ResponseEvent
from vlserve.types import Chunk, FinishReason, Request

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HELLO = [user("hello you")]
NUM_RUNS = 20


class Backwards(ScriptedEngine):
    """The later of several answers come first."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        index = int(request.id.rpartition("-")[2]) if "-" in request.id else 0
        await asyncio.sleep(0.01 * (3 - index))
        async for chunk in super().generate(request):
            yield chunk


class Cut(ScriptedEngine):
    """Each answer is cut short."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk]:
        async for chunk in super().generate(request):
            is_last = chunk.finish_reason is not None
            yield replace(chunk, finish_reason=FinishReason.LENGTH) if is_last else chunk


async def events(house: House[Any], path: str, **body: Any) -> list[dict[str, Any]]:
    """The data of each event, but for [DONE]."""
    answer = await house.post(path, body | {"stream": True})
    assert answer.status == 200, answer
    lines = [line for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


async def test_the_roles_of_all_answers_come_first_in_order() -> None:
    async with live(Backwards()) as house, house.client() as client:
        found = await events(house, CHAT, messages=HELLO, n=3)
        choices = [piece["choices"][0] for piece in found]
        assert [choice["index"] for choice in choices[:3]] == [0, 1, 2]
        assert all(choice["delta"].get("role") == "assistant" for choice in choices[:3])
        assert not any("role" in choice["delta"] for choice in choices[3:])
        for _ in range(NUM_RUNS):
            async with client.chat.completions.stream(
                model=MODEL, messages=HELLO, n=3
            ) as stream:  # ends in IndexError where a later answer is told of first
                async for _ in stream:
                    pass
                final = await stream.get_final_completion()
            assert [choice.message.content for choice in final.choices] == ["hello you "] * 3
    print(f"tried {NUM_RUNS}, held {NUM_RUNS}")


async def test_usage_so_far_comes_with_each_piece_where_it_is_asked_for() -> None:
    async with live() as house:
        options = {"include_usage": True, "continuous_usage_stats": True}
        found = await events(house, CHAT, messages=HELLO, n=2, stream_options=options)
        alone = {"continuous_usage_stats": True}
        without = await events(house, CHAT, messages=HELLO, stream_options=alone)
        whole = (await house.post(CHAT, {"messages": HELLO, "n": 2})).json
    *pieces, last = found
    assert last["usage"] == whole["usage"]
    so_far: dict[int, list[int]] = {0: [], 1: []}
    for piece in pieces:
        usage = piece["usage"]
        assert usage["prompt_tokens"] == 12
        assert usage["total_tokens"] == 12 + usage["completion_tokens"]
        so_far[piece["choices"][0]["index"]].append(usage["completion_tokens"])
    assert so_far == {0: [0, 1, 2, 2], 1: [0, 1, 2, 2]}
    assert not any("usage" in piece for piece in without)


async def test_every_event_is_as_the_document_says() -> None:
    num_events = 0
    kinds: set[str] = set()
    async with live() as house:
        document = (await house.get("/openapi.json")).json
        for path, bodies in (
            (CHAT, ({"messages": HELLO, "n": 2, "logprobs": True, "top_logprobs": 1},
                    {"messages": HELLO, "stream_options": {"include_usage": True}},
                    {"messages": [user("a break")]})),
            (RESPONSES, ({"input": "hello you", "top_logprobs": 1}, {"input": "a break"},
                         {"input": "a", "text": {"format": {"type": "json_object"}}})),
        ):  # fmt: skip
            content = document["paths"][path]["post"]["responses"]["200"]["content"]
            schema = content["text/event-stream"]["schema"]
            assert "$ref" not in json.dumps(schema)
            for body in bodies:
                for each in await events(house, path, **body):
                    jsonschema.validate(each, schema)
                    num_events += 1
                    if path == RESPONSES:
                        kinds.add(each["type"])
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate("a string", schema)
    async with live(Cut()) as house:
        cut = await events(house, RESPONSES, input="a")
    for each in cut:
        jsonschema.validate(each, schema)
    kinds |= {each["type"] for each in cut}
    assert kinds == set(get_args(ResponseEvent.model_fields["type"].annotation))
    print(f"{num_events} events as the document says")


async def test_who_answered_is_told() -> None:
    async with live() as house, house.client() as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO)
        pieces = await events(house, CHAT, messages=HELLO)
        (model,) = (await house.get("/v1/models")).json["data"]
    assert whole.system_fingerprint is not None
    assert {piece["system_fingerprint"] for piece in pieces} == {whole.system_fingerprint}
    assert (model["max_model_len"], model["capabilities"]) == (4096, ["completion", "vision"])


async def test_its_own_answers_may_come_back() -> None:
    said = [user("hello"), {"role": "assistant", "content": "hello you "}, user("go on")]
    async with live() as house, house.client() as client:
        answer = (await house.post(CHAT, {"messages": HELLO})).json["choices"][0]["message"]
        turns = [user("hello"), answer, user("go on")]
        assert (await house.post(CHAT, {"messages": turns})).status == 200
        output = (await house.post(RESPONSES, {"input": "hello you"})).json["output"]
        again = [
            user("hello"),
            *(item | {"phase": "final_answer"} for item in output),
            user("go on"),
        ]
        assert (await house.post(RESPONSES, {"input": again})).status == 200
        plain = await client.chat.completions.create(model=MODEL, messages=said)
        assert plain.choices
        _, chat, _, responses, simple = [request.messages for request in house.engine.seen]
    assert chat == responses == simple
