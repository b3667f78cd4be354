"""What clients send without asking for anything by it is taken, at every door that speaks JSON."""

import base64
from typing import Any

import pytest

from tests.doors.grpc.live import live as grpc_live
from tests.doors.grpc.live import png
from tests.doors.http.live import data_url, live, picture_part, user
from tests.doors.kserve.asked import InferenceClient
from tests.doors.kserve.asked import asked as infer_request
from vlserve.doors import unasked

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, RESPONSES, REST = "/v1/chat/completions", "/v1/responses", "/process_image"
EMPTY: list[Any] = [None, "", [], {}]
NAMES = [
    "functions", "audio", "prediction", "reasoning", "reasoning_effort", "verbosity",
    "mm_processor_kwargs", "chat_template_kwargs", "guided_json", "tools", "tool_choice", "stop",
    "logit_bias", "response_format", "structured_outputs", "stream_options", "media_bounds",
    "media_io_kwargs", "logprobs", "top_logprobs", "modalities", "n", "seed", "temperature",
    "max_tokens", "top_k", "stop_token_ids", "what_no_server_has",
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
NOTHING: list[dict[str, Any]] = [
    *({name: value} for name in NAMES for value in EMPTY),
    *({name: value} for name, values in unasked.NOTHING.items() for value in values),
    *({name: "whatever it says"} for name in unasked.IGNORED_OF_REQUEST - {"metadata"}),
    {"reasoning": {"effort": None, "summary": None}},
    {"reasoning": {"effort": "none"}},
    {"tools": [TOOL], "tool_choice": "none"},
    {"top_k": -1},
    {"seed": -1},
]
MORE_OF_CHAT: list[dict[str, Any]] = [
    {"functions": [{"name": "f"}], "function_call": "none"},
    {"top_logprobs": 0},
    {"stream_options": {"include_usage": False}},
    {"structured_outputs": {"regex": None}},
    {"metadata": {"a": 1}},
]
TURN: dict[str, Any] = dict.fromkeys(unasked.IGNORED_OF_TURN, "whatever it says") | {
    "audio": None, "function_call": None, "tool_calls": [],
}  # fmt: skip
PART: dict[str, Any] = {name: {"whatever": "it says"} for name in unasked.IGNORED_OF_PART}


async def test_a_request_that_asks_for_nothing_more_is_the_plain_one() -> None:
    async with live() as house:
        for path, plain, more in (
            (CHAT, {"messages": [user("hello")]}, MORE_OF_CHAT),
            (RESPONSES, {"input": "hello"}, []),
        ):
            cases = [{}, *NOTHING, *more]
            for said in cases:
                answer = await house.post(path, plain | said)
                assert answer.status == 200, (path, said, answer)
            first, *others = [(seen.messages, seen.sampling) for seen in house.engine.seen]
            assert all(other == first for other in others)
            house.engine.seen.clear()
            print(f"{path}: tried {len(cases)}, held {len(cases)}")


async def test_turns_and_parts_with_more_than_their_content() -> None:
    bare = [user({"type": "text", "text": "hello"}, picture_part())]
    full = [
        user({"type": "input_text", "text": "hello"} | PART, picture_part() | PART) | TURN,
    ]
    said = {"type": "input_text", "text": "hello"}
    picture = {"type": "input_image", "image_url": data_url()}
    async with live() as house:
        for path, name, turns in (
            (CHAT, "messages", bare),
            (CHAT, "messages", full),
            (RESPONSES, "input", [user(said, picture)]),
            (RESPONSES, "input", [user(said | {"type": "text"} | PART, picture | PART) | TURN]),
        ):
            answer = await house.post(path, {name: turns})
            assert answer.status == 200, (path, answer)
        first, *others = [
            [(turn.role, [getattr(part, "key", part) for part in turn.content]) for turn in turns]
            for turns in [seen.messages for seen in house.engine.seen]
        ]
    assert others == [first] * 3


async def test_the_simple_call_as_well() -> None:
    data = base64.b64encode(png()).decode()
    async with live() as house:
        for name in ("prompt", "media_bounds", "what_no_server_has"):
            for value in EMPTY:
                answer = await house.post(REST, {"image_data": data, name: value})
                assert answer.json["description"].endswith("Describe the image "), (name, value)


async def test_triton_as_well() -> None:
    async with grpc_live() as house, InferenceClient(house.door.address) as client:
        await client.infer(infer_request())
        for name in ("stop", "top_k", "choice", "max_images", "best_of", "what_no_server_has"):
            for value in EMPTY:
                await client.infer(infer_request(sampling={name: value}))
        await client.infer(infer_request(sampling={"best_of": 1, "echo": False, "top_k": -1}))
        assert len({repr(seen.sampling) for seen in house.engine.seen}) == 1
