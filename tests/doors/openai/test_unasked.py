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
# As clients send them, and not as the tables of the source list them, which may lose one.
DEFAULTS: list[dict[str, Any]] = [
    {"add_generation_prompt": True}, {"add_special_tokens": False}, {"background": False},
    {"best_of": 1}, {"continue_final_message": False}, {"detokenize": True}, {"echo": False},
    {"effort": "none"}, {"function_call": "none"}, {"function_call": "auto"},
    {"include_stop_str_in_output": False}, {"length_penalty": 1.0}, {"modalities": ["text"]},
    {"reasoning_effort": "none"}, {"return_token_ids": False},
    {"return_tokens_as_token_ids": False}, {"skip_special_tokens": True},
    {"spaces_between_special_tokens": True}, {"tool_choice": "none"}, {"tool_choice": "auto"},
    {"truncation": "disabled"}, {"use_beam_search": False}, {"verbosity": "medium"},
]  # fmt: skip
BESIDE_A_REQUEST = [
    "user", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls", "request_id",
]  # fmt: skip
BESIDE_A_TURN = [
    "name", "id", "status", "phase", "cache_control", "reasoning", "reasoning_content", "refusal",
    "annotations", "provider_specific_fields",
]  # fmt: skip
BESIDE_A_PART = ["id", "cache_control", "annotations", "logprobs", "uuid"]
NOTHING: list[dict[str, Any]] = [
    *({name: value} for name in NAMES for value in EMPTY),
    *DEFAULTS,
    *({name: "whatever it says"} for name in BESIDE_A_REQUEST),
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
TURN: dict[str, Any] = dict.fromkeys(BESIDE_A_TURN, "whatever it says") | {
    "audio": None, "function_call": None, "tool_calls": [],
}  # fmt: skip
PART: dict[str, Any] = {name: {"whatever": "it says"} for name in BESIDE_A_PART}


async def test_what_is_tried_here_is_all_that_is_listed() -> None:
    listed = {name: list(values) for name, values in unasked.NOTHING.items()}
    tried: dict[str, list[Any]] = {}
    for name, value in (each for said in DEFAULTS for each in said.items()):
        tried.setdefault(name, []).append(value)
    assert listed == tried
    assert {*BESIDE_A_REQUEST, "metadata"} == unasked.IGNORED_OF_REQUEST
    assert set(BESIDE_A_TURN) == unasked.IGNORED_OF_TURN
    assert set(BESIDE_A_PART) == unasked.IGNORED_OF_PART


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


@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
async def test_a_turn_that_says_nothing_is_taken(role: str) -> None:
    """What a server answered that found no word, or a client's empty instructions."""
    empty: list[dict[str, Any]] = [
        {}, *({"content": value} for value in EMPTY[:3]),
        {"content": [{"type": "text", "text": ""}]},
    ]  # fmt: skip
    async with live() as house:
        for said in empty:
            turns = [user("hello"), {"role": role} | said, user("go on")]
            for path, name in ((CHAT, "messages"), (RESPONSES, "input")):
                answer = await house.post(path, {name: turns})
                assert answer.status == 200, (path, said, answer)
        for seen in house.engine.seen:
            first, second, third = seen.messages
            assert (first.content, third.content) == (("hello",), ("go on",))
            assert not any(second.content)


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
